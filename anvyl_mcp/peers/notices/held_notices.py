"""Decides when a notice is sent: cooldown, quiet hours and mutes hold notices back and count them.

A problem is sent at once, and so is its end. When the same thing changes again within the cooldown, only its last state
is sent afterwards, with the number of changes that were held back. What quiet hours or a mute held back is sent as one
notice when they end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anvyl_mcp.core import text
from anvyl_mcp.peers.notices.mutes import Mute
from anvyl_mcp.peers.notices.notice import Notice, digest, with_note
from anvyl_mcp.peers.notices.quiet_hours import QuietHours


@dataclass(slots=True)
class _Thread:
    """What happened to one thing: what was sent last and what waits."""

    sent_at: float = 0.0
    sent_over: bool = True
    waiting: Notice | None = None
    held: int = 0
    since: float = 0.0
    silenced: str = ""


class HeldNotices:
    """The notices that wait."""

    def __init__(self, cooldown: float, quiet: QuietHours, mutes: Callable[[float], Sequence[Mute]]) -> None:
        """`cooldown`: seconds; `mutes` returns those that hold at a time."""
        self._cooldown = cooldown
        self._quiet = quiet
        self._mutes = mutes
        self._threads: dict[tuple[str, ...], _Thread] = {}

    def add(self, notice: Notice) -> None:
        """Add a notice; `due` returns it when it may be sent."""
        thread = self._threads.setdefault(notice.key, _Thread())
        if thread.waiting is None:
            thread.since = notice.at
        thread.waiting = notice
        thread.held += 1

    def waiting(self) -> list[tuple[Notice, bool]]:
        """Return the notices that wait, each with whether people believe that all is well."""
        return [(one.waiting, one.sent_over) for one in self._threads.values() if one.waiting is not None]

    def due(self, now: float) -> list[Notice]:
        """Return the notices to send now."""
        quiet, mutes = self._quiet.covers(now), self._mutes(now)
        ready: list[Notice] = []
        after_silence: dict[str, list[Notice]] = {}
        for thread in list(self._threads.values()):
            if thread.waiting is None:
                continue
            if why := _silence(thread.waiting, quiet, mutes, now):
                thread.silenced = why
            elif self._may_tell(thread, now):
                why, notice = thread.silenced, self._tell(thread, now)
                (after_silence.setdefault(why, []) if why else ready).append(notice)
        for why, held in after_silence.items():
            ready.append(digest(held, why, now))
        old = now - self._cooldown
        self._threads = {
            key: one for key, one in self._threads.items() if one.waiting or not one.sent_over or one.sent_at > old
        }
        return ready

    def _may_tell(self, thread: _Thread, now: float) -> bool:
        over = thread.waiting is not None and thread.waiting.level != "problem"
        ends_known_problem = over and not thread.sent_over
        return ends_known_problem or not thread.sent_at or now - thread.sent_at >= self._cooldown

    def _tell(self, thread: _Thread, now: float) -> Notice:
        notice, others, since = thread.waiting, thread.held - 1, thread.since
        assert notice is not None
        thread.sent_at, thread.sent_over = now, notice.level != "problem"
        thread.waiting, thread.held, thread.silenced = None, 0, ""
        if not others:
            return notice
        clock = text.format_local_time(text.format_timestamp(since))
        return with_note(notice, f"{text.plural(others, 'more change')} since {clock} held back.")


def _silence(notice: Notice, quiet: bool, mutes: Sequence[Mute], now: float) -> str:
    """Return the title of the notice that will tell it later; empty if it may be sent."""
    host, subject = (*notice.key, "", "")[0], (*notice.key, "", "", "")[2]
    if any(mute.covers(host, subject, now) for mute in mutes):
        return "While notices were muted"
    return "During quiet hours" if quiet and not notice.urgent else ""
