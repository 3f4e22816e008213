"""Live display of results from several hosts; a slow host does not delay the others."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Generic, TypeVar

import anyio

from anvyl_mcp.cli.runtime import output
from anvyl_mcp.cli.terminal import screen
from anvyl_mcp.core import text

GRACE_SECONDS = 0.15
"""Results that arrive within this time are printed together, in host order."""
TICK_SECONDS = 0.5

OPTIONAL = "stack"
"""A last column that a terminal shows only if it has any value."""

Item = TypeVar("Item")


class LiveResults(ABC, Generic[Item]):
    """Collects results and prints them in host order; a terminal also shows the pending hosts."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """`hosts`: the host of each expected result; a host may appear more than once."""
        self.live = output.live_display(sys.stdout)
        self.waiting = list(hosts)
        self.past_verb = "done"
        self._places = {host: place for place, host in enumerate(dict.fromkeys(hosts))}
        self._started = time.monotonic()
        self._news = anyio.Event()
        self._fresh: list[tuple[int, Item]] = []
        self._done: list[tuple[int, Item]] = []

    @property
    def single_host(self) -> bool:
        """Whether all results come from one host."""
        return len(self._places) == 1

    @property
    def done(self) -> list[Item]:
        """All results shown so far."""
        return [one for _, one in self._done]

    def add(self, host: str, item: Item) -> None:
        """Add one result of a host."""
        self.waiting.remove(host)
        self._fresh.append((self._places[host], item))
        self._news.set()

    async def follow(self) -> None:
        """Keep the display up to date until cancelled."""
        while True:
            with anyio.move_on_after(TICK_SECONDS):
                await self._news.wait()
                await anyio.sleep(GRACE_SECONDS)
            self._news = anyio.Event()
            self._show()

    def end(self) -> None:
        """Print the remaining results; no more are expected."""
        self.waiting.clear()
        self._show()

    @abstractmethod
    def draw(self, fresh: list[Item]) -> None:
        """Show the new results."""

    def waiting_line(self) -> str:
        """Status line with the pending hosts."""
        names = text.join_names(list(dict.fromkeys(self.waiting)))
        count = len(self._done) + len(self.waiting) + len(self._fresh)
        done = f"{len(self._done)} of {count} {self.past_verb}, " if count > len(self._places) else ""
        return f"{done}waiting for {names}, {time.monotonic() - self._started:.0f} s"

    def _show(self) -> None:
        fresh, self._fresh = sorted(self._fresh, key=itemgetter(0)), []
        self._done = sorted([*self._done, *fresh], key=itemgetter(0))
        self.draw([one for _, one in fresh])
        sys.stdout.flush()


class LiveTable(LiveResults[Item]):
    """Item table: redrawn in place on a terminal, printed row by row elsewhere."""

    def __init__(
        self,
        columns: Sequence[str],
        rows: Callable[[Item], list[list[str]] | None],
        hosts: Sequence[str],
        titles: Mapping[str, str] | None = None,
    ) -> None:
        """`rows` turns one result into rows; None if it is not part of the table."""
        super().__init__(hosts)
        self._columns, self._rows, self._titles = columns, rows, titles or {}
        self._headed = False

    @property
    def empty(self) -> bool:
        """Whether the table has no rows."""
        return not any(map(self._rows, self.done))

    def draw(self, fresh: list[Item]) -> None:
        """Show the new results."""
        if self.live is None:
            self._print([rows for rows in map(self._rows, fresh) if rows is not None])
            return
        rows = [row for one in self.done for row in self._rows(one) or ()]
        table = screen.TableData(*_without_optional(self._columns, rows), self._titles) if rows else None
        if self.waiting:
            self.live.show([self.waiting_line()], table=table)
        else:
            self.live.end(table)

    def _print(self, groups: Sequence[Sequence[Sequence[str]]]) -> None:
        if groups and not self._headed:
            self._headed = True
            output.print_row(self._columns)
        for rows in groups:
            for row in rows:
                output.print_row(row)


def _without_optional(
    columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    if not rows or columns[-1] != OPTIONAL or any(row[-1] for row in rows):
        return columns, rows
    return columns[:-1], [row[:-1] for row in rows]
