"""What several hosts tell, shown as it comes: nobody's answer is held back by a slow host."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import anyio

from anvyl_mcp.cli.runtime import output
from anvyl_mcp.cli.terminal import screen
from anvyl_mcp.core import text

GRACE_SECONDS = 0.15
"""Answers that come together are shown together, in the order of their hosts."""
TICK_SECONDS = 0.5

One = TypeVar("One")


class Arriving(ABC, Generic[One]):
    """Takes in what hosts tell, and shows it in their order; a terminal also says who is waited for."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """`hosts`: of everything that is waited for, so a name may stand here twice."""
        self.live = output.live_display(sys.stdout)
        self.waiting = list(hosts)
        self.did = "done"
        self._places = {host: place for place, host in enumerate(dict.fromkeys(hosts))}
        self._started = time.monotonic()
        self._news = anyio.Event()
        self._fresh: list[tuple[int, One]] = []
        self._done: list[tuple[int, One]] = []

    @property
    def alone(self) -> bool:
        """Whether all of it comes from one host."""
        return len(self._places) == 1

    @property
    def done(self) -> list[One]:
        """All that was shown."""
        return [one for _, one in self._done]

    def arrived(self, host: str, one: One) -> None:
        """Take in what one host tells."""
        self.waiting.remove(host)
        self._fresh.append((self._places[host], one))
        self._news.set()

    async def follow(self) -> None:
        """Show what there is, again and again, until cancelled."""
        while True:
            with anyio.move_on_after(TICK_SECONDS):
                await self._news.wait()
                await anyio.sleep(GRACE_SECONDS)
            self._news = anyio.Event()
            self._show()

    def end(self) -> None:
        """Show the rest; nobody is waited for any more."""
        self.waiting.clear()
        self._show()

    @abstractmethod
    def draw(self, fresh: list[One]) -> None:
        """Show what came since the last time."""

    def wait(self) -> str:
        """The line that says who is waited for."""
        names = text.joined(list(dict.fromkeys(self.waiting)))
        count = len(self._done) + len(self.waiting) + len(self._fresh)
        done = f"{len(self._done)} of {count} {self.did}, " if count > len(self._places) else ""
        return f"{done}waiting for {names}, {time.monotonic() - self._started:.0f} s"

    def _show(self) -> None:
        fresh, self._fresh = sorted(self._fresh, key=lambda told: told[0]), []
        self._done = sorted([*self._done, *fresh], key=lambda told: told[0])
        self.draw([one for _, one in fresh])
        sys.stdout.flush()


class Growing(Arriving[One]):
    """One table: drawn over on a terminal, printed row by row elsewhere."""

    def __init__(
        self,
        columns: Sequence[str],
        rows: Callable[[One], list[list[str]] | None],
        hosts: Sequence[str],
        titles: Mapping[str, str] | None = None,
    ) -> None:
        """`rows` of what one host tells; None when that has no place in the table."""
        super().__init__(hosts)
        self._columns, self._rows, self._titles = columns, rows, titles or {}
        self._headed = False

    @property
    def empty(self) -> bool:
        """Whether no row was shown."""
        return not any(map(self._rows, self.done))

    def draw(self, fresh: list[One]) -> None:
        """Show what came since the last time."""
        if self.live is None:
            self._print([rows for rows in map(self._rows, fresh) if rows is not None])
            return
        rows = [row for one in self.done for row in self._rows(one) or ()]
        table = screen.Table(self._columns, rows, self._titles) if rows else None
        if self.waiting:
            self.live.show([self.wait()], table=table)
        else:
            self.live.end(table)

    def _print(self, told: Sequence[Sequence[Sequence[str]]]) -> None:
        if told and not self._headed:
            self._headed = True
            output.row(self._columns)
        for rows in told:
            for row in rows:
                output.row(row)
