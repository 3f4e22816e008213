"""What the watch of this installation noticed, as the page shows it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from anvyl_mcp.peers.notices.mutes import Mute, MuteStore
from anvyl_mcp.peers.notices.notice import Notice
from anvyl_mcp.peers.notices.recent_notices import RecentNoticesFile
from anvyl_mcp.peers.watch.watch_file import WatchState


class WatchedNotice(BaseModel):
    """One notice. `subject` is a container or a disk; `muted`: no notice is sent about it now."""

    host: str
    subject: str
    title: str
    message: str
    level: Literal["problem", "recovered", "info"]
    at: datetime
    muted: bool


class WatchedNotices(BaseModel):
    """What a watch found on the hosts: `problems` that go on, and what happened lately, each newest first."""

    watching: Annotated[bool, Field(description="whether a watch of this host checks now")]
    checked: Annotated[datetime | None, Field(description="when it last checked; null: never")]
    standby_for: Annotated[str, Field(description="the host that watches, if this one stands by for it")] = ""
    problems: list[WatchedNotice] = []
    past: list[WatchedNotice] = []


class NoticeView:
    """Reads the notices of an installation. `host`: only those about this host; empty: all."""

    def __init__(self, state_dir: Path, *, standby_for: str = "", host: str = "") -> None:
        self._file = RecentNoticesFile(state_dir)
        self._mutes = MuteStore(state_dir)
        self._standby_for = standby_for
        self._host = host

    def read(self) -> WatchedNotices:
        """Return the notices as they are now."""
        now, found = time.time(), self._file.read()
        mutes = self._mutes.active(now)

        def shown(notices: tuple[Notice, ...]) -> list[WatchedNotice]:
            rows = [_document(one, mutes, now) for one in notices]
            return [one for one in rows if self._host in ("", one.host)]

        watching = WatchState(found.checked, found.every).is_alive(now)
        # While another host watches, what this one once saw may be over.
        problems = () if self._standby_for and not watching else found.problems
        return WatchedNotices(
            watching=watching,
            checked=_time(found.checked) if found.checked else None,
            standby_for=self._standby_for,
            problems=shown(problems),
            past=shown(found.past),
        )


def _document(notice: Notice, mutes: list[Mute], now: float) -> WatchedNotice:
    host, _, subject = (*notice.key, "", "", "")[:3]
    return WatchedNotice(
        host=host,
        subject=subject,
        title=notice.title,
        message=notice.body,
        level=notice.level,
        at=_time(notice.at),
        muted=any(mute.covers(host, subject, now) for mute in mutes),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
