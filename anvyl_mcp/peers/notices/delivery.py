"""Deliver notices to every channel: what fails is retried after the next check, or reported."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import anyio

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.peers.notices.notice import Level, Notice
from anvyl_mcp.peers.notices.services import DeliveryFailed

log = logging.getLogger(__name__)

MOST_WAITING = 100


class Recipient(Protocol):
    """A channel or a program that gets notices."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def shown(self) -> str:
        """Where it is, without secrets."""

    @property
    def takes_everything(self) -> bool:
        """Whether it is a program that gets each event at once, not a person."""

    async def send(self, notice: Notice) -> None:
        """Send a notice, or raise `DeliveryFailed`."""


@dataclass(slots=True)
class _Outbox:
    """The notices that wait for one recipient, and how the last delivery ended."""

    channel: Recipient
    waiting: deque[Notice] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))
    problem: str = ""

    def add(self, notice: Notice) -> None:
        if len(self.waiting) == MOST_WAITING:
            log.warning("more than %d notices wait for `%s`; the oldest is dropped", MOST_WAITING, self.channel.name)
        self.waiting.append(notice)


class Delivery:
    """Delivers notices to channels."""

    def __init__(self, recipients: Callable[[], Sequence[Recipient]], here: str, state_dir: Path) -> None:
        """`recipients` returns the current ones; `here`: the name of this host, which a notice about a channel names.

        Raises:
            AnvylError: the recipients cannot be read.
        """
        self._recipients = recipients
        self._outboxes = [_Outbox(one) for one in recipients()]
        self._unreadable = ""
        self._here = here
        self._file = state_file(state_dir)

    def refresh(self) -> None:
        """Use the current recipients; what waits for one that stays is kept."""
        try:
            recipients, self._unreadable = self._recipients(), ""
        except AnvylError as error:
            if error.message != self._unreadable:
                log.warning("%s; the channels stay as they were", error.message)
            self._unreadable = error.message
            return
        known = {outbox.channel.name: outbox for outbox in self._outboxes}
        self._outboxes = [
            known[one.name] if one.name in known and known[one.name].channel == one else _Outbox(one)
            for one in recipients
        ]

    def add(self, notices: Sequence[Notice], *, programs: bool) -> None:
        """Queue notices, for programs or for people."""
        for outbox in self._outboxes:
            if outbox.channel.takes_everything is programs:
                for notice in notices:
                    outbox.add(notice)

    def undelivered(self) -> set[tuple[str, ...]]:
        """Return the keys of problems that no person knows of, because their notices wait in every channel."""
        people = [outbox for outbox in self._outboxes if not outbox.channel.takes_everything]
        keys = [
            {key for one in outbox.waiting if one.level == "problem" for key in (one.key, *one.about)}
            for outbox in people
        ]
        return set.intersection(*keys) if keys else set()

    async def flush(self) -> None:
        """Deliver what waits, to all channels at once."""
        async with anyio.create_task_group() as group:
            for outbox in self._outboxes:
                group.start_soon(self._deliver, outbox)

    async def _deliver(self, outbox: _Outbox) -> None:
        while outbox.waiting:
            notice = outbox.waiting[0]
            try:
                await outbox.channel.send(notice)
            except DeliveryFailed as failure:
                self._failed(outbox, failure)
                if failure.retry:
                    return
                outbox.waiting.popleft()
                continue
            outbox.waiting.popleft()
            self._arrived(outbox)

    def _failed(self, outbox: _Outbox, failure: DeliveryFailed) -> None:
        name, reason = outbox.channel.name, failure.reason
        # A service that is down for hours is logged once.
        if reason != outbox.problem or not failure.retry:
            again = "it is sent again until it arrives" if failure.retry else "the notice is lost"
            log.warning("a notice to `%s` (%s) failed: %s; %s", name, outbox.channel.shown, reason, again)
        self._note(outbox, reason)
        if not outbox.problem:
            self._tell_others(outbox, "problem", f"{self._here} cannot deliver notices to `{name}`: {reason}.")
        outbox.problem = reason

    def _arrived(self, outbox: _Outbox) -> None:
        if outbox.problem:
            self._tell_others(outbox, "recovered", f"{self._here} delivers notices to `{outbox.channel.name}` again.")
        outbox.problem = ""
        self._note(outbox, "")

    def _tell_others(self, failed: _Outbox, level: Level, body: str) -> None:
        """Tell the channels of people that work."""
        notice = Notice(f"{'Problem' if level == 'problem' else 'Recovered'}: notices", body, level, time.time())
        for outbox in self._outboxes:
            if outbox is not failed and not outbox.problem and not outbox.channel.takes_everything:
                outbox.add(notice)

    def _note(self, outbox: _Outbox, problem: str) -> None:
        """Record how a delivery ended, for `anvyl notify list`."""
        record(self._file, outbox.channel.name, problem)


def state_file(state_dir: Path) -> Path:
    """The file that has the result of the last delivery to each channel."""
    return state_dir / "deliveries.json"


def record(file: Path, name: str, problem: str) -> None:
    """Record the result of a delivery. That it cannot be written must not stop notices."""
    rows = read_results(file)
    rows[name] = {"at": text.format_timestamp(time.time()), "problem": problem}
    try:
        write_atomically(file, json.dumps(rows), durable=False)
    except OSError as error:
        log.warning("%s cannot be written: %s", file, error.strerror)


def read_results(file: Path) -> dict[str, dict[str, str]]:
    """Return the last result by channel: `{"at", "problem"}`."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): {"at": str(row["at"]), "problem": str(row["problem"])} for name, row in rows.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
