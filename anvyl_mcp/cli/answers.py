"""What hosts answer to one tool, shown as it comes: nobody's answer is held back by a slow host."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from anvyl_mcp import text
from anvyl_mcp.cli import output, screen, tables
from anvyl_mcp.peers.fleet import Outcome
from anvyl_mcp.peers.listing import ToolListing

GRACE_SECONDS = 0.15
"""Answers that come together are shown together, in the order of their hosts."""
TICK_SECONDS = 0.5


@dataclass(frozen=True)
class View:
    """How answers become rows of one table; `titles` are what columns are called on a terminal."""

    columns: Sequence[str]
    rows: Callable[[Outcome], list[list[str]]]
    titles: Mapping[str, str] = field(default_factory=dict)
    noun: str = ""


def listed(tool: ToolListing, titles: Mapping[str, str] | None = None) -> View | None:
    """The table of a tool that lists, as its schema says; None for other tools."""
    schema = tool.output_schema
    noun = text.rows_field(schema)
    if not noun:
        return None
    columns = list(text.rows({}, schema)[0])
    if tool.toolset == "fleet":
        return View(columns, lambda one: text.rows(one.answer.result or {}, schema)[1], titles or {}, noun)

    def rows(one: Outcome) -> list[list[str]]:
        return [[one.host, *row] for row in text.rows(one.answer.result or {}, schema)[1]]

    return View(["host", *columns], rows, titles or {}, noun)


class Answers:
    """One table that grows, where there is a view; text per host where there is none."""

    def __init__(self, view: View | None, hosts: Sequence[str], *, changing: bool = False) -> None:
        """`hosts`: of every call that is waited for, so a name may stand here twice. `changing`: of a change."""
        self._changing = changing
        self._view = view
        self._waiting = list(hosts)
        self._hosts = list(dict.fromkeys(hosts))
        self._started = time.monotonic()
        self._news = anyio.Event()
        self._done: list[Outcome] = []
        self._fresh: list[Outcome] = []
        self._headed = False
        self._live = screen.Live(sys.stdout) if sys.stdout.isatty() else None

    def add(self, one: Outcome) -> None:
        """Take one answer in."""
        self._waiting.remove(one.host)
        self._fresh.append(one)
        self._news.set()

    def take(self, done: Sequence[Outcome]) -> None:
        """Take all answers in, and show them."""
        for one in done:
            self.add(one)
        self.end()

    async def follow(self) -> None:
        """Show what there is, again and again, until cancelled."""
        while True:
            with anyio.move_on_after(TICK_SECONDS):
                await self._news.wait()
                await anyio.sleep(GRACE_SECONDS)
            self._news = anyio.Event()
            try:
                self._show()
            except BrokenPipeError:
                # A change under way must not be given up because a pipe was closed.
                if self._changing:
                    return
                raise

    def end(self, *, failures: bool = True) -> None:
        """Show the rest, and who failed."""
        self._waiting.clear()
        self._show()
        good = [one for one in self._done if one.ok]
        if self._view and self._live and good and not self._rows(good):
            output.talk(f"no {self._view.noun} on {text.joined(list(dict.fromkeys(one.host for one in good)))}")
        for one in good if self._view else ():
            if more := (one.answer.result or {}).get("more"):
                output.talk(f"{one.host}: {more} more are not shown")
        for one in self._done if failures else ():
            output.failure(one)

    def _show(self) -> None:
        fresh, self._fresh = sorted(self._fresh, key=lambda one: self._hosts.index(one.host)), []
        self._done = sorted([*self._done, *fresh], key=lambda one: self._hosts.index(one.host))
        good = [one for one in fresh if one.ok]
        if self._view and self._live:
            rows = self._rows([one for one in self._done if one.ok])
            drawn = tables.lines(self._view.columns, rows, self._view.titles) if rows else []
            if self._waiting:
                self._live.show([*drawn, *self._wait()])
            else:
                self._live.end(drawn)
        elif self._view:
            self._print_rows(self._view, good)
        else:
            if self._live and (good or not self._waiting):
                self._live.end()
            for one in good:
                output.block(one, alone=len(self._hosts) == 1)
            if self._live and self._waiting:
                self._live.show(self._wait())
        sys.stdout.flush()

    def _print_rows(self, view: View, good: Sequence[Outcome]) -> None:
        if good and not self._headed:
            self._headed = True
            print("\t".join(view.columns))
        for row in self._rows(good):
            print(output.tabbed(row))

    def _rows(self, good: Sequence[Outcome]) -> list[list[str]]:
        return [row for one in good for row in self._view.rows(one)] if self._view else []

    def _wait(self) -> list[str]:
        names = text.joined(list(dict.fromkeys(self._waiting)))
        words = f"waiting for {names}, {time.monotonic() - self._started:.0f} s"
        return [screen.paint(screen.cut(words, screen.size()[0] - 1), "dim")]
