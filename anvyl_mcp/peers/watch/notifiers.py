"""Build a watch from the settings: what it checks, and to whom it sends notices."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import anyio

from anvyl_mcp.core.errors import AnvylError, InvalidInput
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.core.text import format_duration, format_local_time, format_timestamp, parse_duration
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.notices.channels import Channel, ChannelStore, make_channel
from anvyl_mcp.peers.notices.command_recipient import parse_command
from anvyl_mcp.peers.notices.delivery import Delivery, Recipient
from anvyl_mcp.peers.notices.held_notices import HeldNotices
from anvyl_mcp.peers.notices.mutes import MuteStore
from anvyl_mcp.peers.notices.notice import Notice
from anvyl_mcp.peers.notices.quiet_hours import parse_quiet_hours
from anvyl_mcp.peers.notices.recent_notices import RecentNoticesFile
from anvyl_mcp.peers.watch.rules import parse_rule
from anvyl_mcp.peers.watch.troubles import Alert, Trouble, TroubleKind
from anvyl_mcp.peers.watch.watch_file import WatchFile
from anvyl_mcp.peers.watch.watcher import Watcher

log = logging.getLogger(__name__)

GAP_SECONDS = 300.0
"""A watch that was off for longer says so when it starts again."""


def make_watcher(fleet: Fleet, settings: Settings, selector: str = "", *, patience: int = 2) -> Watcher:
    """Return a watcher configured from the settings.

    Raises:
        InvalidInput: a setting is invalid.
        ConfigInvalid: a rule is invalid.
        UnknownHost: the selector, or that of a rule, names an unknown host or tag.
    """
    percent = settings.watch_disk.removesuffix("%").strip()
    if not percent.isdecimal() or not 1 <= int(percent) <= 100:
        raise InvalidInput(f"a disk cannot be `{percent}` percent full", hint="use 1 to 100, like 90")
    rules = [parse_rule(table.fields, table.place) for table in settings.watch_rules]
    if patience == 1:
        # A single check cannot see how long something has lasted.
        rules = [
            rule if rule.kind in ("restarted", "died", "filling") else replace(rule, seconds=0.0) for rule in rules
        ]
    return Watcher(fleet, selector or "all", disk_percent=int(percent), patience=patience, rules=rules)


class NoticePost:
    """Sends what a watch finds: each event to programs, and notices to people when they may be sent."""

    def __init__(self, settings: Settings, here: str, *, channels: bool = True) -> None:
        """`channels`: whether this is the watch that uses those of `anvyl notify`, and whose notices the page shows.

        The webhook and the command of the settings are always used.

        Raises:
            InvalidInput: a setting is invalid.
            ConfigInvalid: the channels cannot be read.
        """
        fixed: list[Recipient] = []
        if settings.watch_webhook:
            fixed.append(_webhook(settings.watch_webhook))
        if settings.watch_command:
            fixed.append(parse_command(settings.watch_command))
        store = ChannelStore(settings.config_dir)
        cooldown = parse_duration(settings.watch_cooldown)
        if cooldown is None:
            raise InvalidInput(f"`{settings.watch_cooldown}` is not a cooldown", hint="write it like 10m, or 0")
        quiet, mutes = parse_quiet_hours(settings.watch_quiet), MuteStore(settings.state_dir)
        self._held = HeldNotices(cooldown, quiet, mutes.active)
        self._recent = RecentNoticesFile(settings.state_dir) if channels else None
        self._delivery = Delivery(lambda: [*fixed, *(store.channels() if channels else ())], here, settings.state_dir)

    async def tell(self, alerts: Sequence[Alert] = (), *, info: Notice | None = None) -> None:
        """Queue alerts, and deliver everything that may be sent now."""
        self._delivery.refresh()
        notices = [alert.as_notice() for alert in alerts] + ([info] if info else [])
        self._delivery.add(notices, programs=True)
        for notice in notices:
            self._held.add(notice)
        self._delivery.add(self._held.due(time.time()), programs=False)
        if info and self._recent:
            self._recent.add([info])
        await self._delivery.flush()

    def record_check(self, every: float, known: Mapping[Trouble, float], alerts: Sequence[Alert]) -> None:
        """Leave the notices of a check, and the problems that go on, to those who look."""
        if self._recent:
            self._recent.record_check(every, {one.key for one in known}, [alert.as_notice() for alert in alerts])

    def known_to_people(self, known: Mapping[Trouble, float]) -> dict[Trouble, float]:
        """Return the problems as people know them, so that a restart neither repeats nor loses a notice."""
        undelivered = self._delivery.undelivered()
        problems = {one: began for one, began in known.items() if one.key not in undelivered}
        for notice, believed_well in self._held.waiting():
            if len(notice.key) != 4:
                continue  # about the watch itself
            host, kind, subject, rule = notice.key
            trouble = Trouble(host, cast(TroubleKind, kind), subject, rule)
            if notice.level == "problem" and believed_well:
                problems.pop(trouble, None)
            elif notice.level != "problem" and not believed_well:
                problems.setdefault(trouble, notice.at)
        return problems


@dataclass(frozen=True, slots=True)
class Watch:
    """A watch, ready to run. `file`: where it leaves its state, if it is that of a server."""

    watcher: Watcher
    every: float
    post: NoticePost
    on_alert: Callable[[Alert], None]
    here: str = ""
    file: WatchFile | None = None

    async def run(self) -> None:
        """Check every `every` seconds until cancelled."""
        if self.file is not None:
            await self._continue(self.file)
        while True:
            try:
                found = await self.watcher.check()
            except AnvylError as error:
                # A hosts file that is invalid while it is edited must not end a watch that runs for months.
                log.warning("the hosts could not be checked: %s", error)
                found = []
            for alert in found:
                self.on_alert(alert)
            self.post.record_check(self.every, self.watcher.known, found)
            await self.post.tell(found)
            if self.file is not None:
                self.file.write(self.every, self.post.known_to_people(self.watcher.known))
            await anyio.sleep(self.every)

    async def _continue(self, file: WatchFile) -> None:
        """Continue the watch that a restart ended, and say so if nothing was watched for long."""
        before, now = file.read(), time.time()
        gap = max(now - before.checked, 0.0) if before.checked else 0.0
        self.watcher.restore(before.known, gap)
        if gap > max(GAP_SECONDS, 5 * self.every):
            since = format_local_time(format_timestamp(before.checked))
            message = (
                f"{self.here} watches the hosts again; nothing was watched for {format_duration(gap)}, since {since}."
            )
            log.info("%s", message)
            await self.post.tell(info=Notice(f"Watch on {self.here}", message, "info", now, (self.here, "watch")))


def make_watch(
    fleet: Fleet,
    settings: Settings,
    on_alert: Callable[[Alert], None],
    selector: str = "",
    *,
    post: NoticePost | None = None,
    file: WatchFile | None = None,
) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return a function that watches until cancelled. Alerts go to `on_alert`, and as the settings say.

    Raises:
        InvalidInput: a setting is invalid.
        ConfigInvalid: a rule is invalid, or the channels cannot be read.
        UnknownHost: the selector names an unknown host or tag.
    """
    every = parse_duration(settings.watch_every)
    if not every:
        raise InvalidInput(f"`{settings.watch_every}` is not a valid interval", hint="write it like 30s or 5m")
    watcher, here = make_watcher(fleet, settings, selector), fleet.local.name
    return Watch(watcher, every, post or NoticePost(settings, here), on_alert, here, file).run


def _webhook(url: str) -> Channel:
    try:
        return make_channel("webhook", url)
    except InvalidInput as error:
        raise InvalidInput(f"the webhook cannot be used: {error.message}", hint=error.hint) from error
