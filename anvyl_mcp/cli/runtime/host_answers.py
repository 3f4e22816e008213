"""What hosts answer to one tool, shown as it comes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from anvyl_mcp.cli.runtime import output
from anvyl_mcp.cli.runtime.live_table import Arriving, Growing
from anvyl_mcp.core import text
from anvyl_mcp.peers.changes import wording
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Outcome


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


class Blocks(Arriving[Outcome]):
    """Text per host, or what was changed there."""

    def __init__(self, hosts: Sequence[str], *, changing: bool = False) -> None:
        super().__init__(hosts)
        self._changing = changing

    def draw(self, fresh: list[Outcome]) -> None:
        """Show what came since the last time."""
        good = [one for one in fresh if one.ok]
        if self.live and (good or not self.waiting):
            self.live.end()
        for one in good:
            if self._changing:
                output.say("\n".join(wording.done([one])))
            else:
                output.block(one, alone=self.alone)
        if self.live and self.waiting:
            self.live.show([self.wait()])


class Answers:
    """One table that grows, where there is a view; text per host where there is none."""

    def __init__(self, view: View | None, hosts: Sequence[str], *, changing: str = "") -> None:
        """`hosts`: of every call that is waited for, also twice. `changing`: the tool, when it changes something."""
        self._changing = changing
        self._view = view
        self._shown: Blocks | Growing[Outcome] = Blocks(hosts, changing=bool(changing))
        if changing:
            self._shown.did = wording.past(changing.partition("_")[0])
        if view is not None:
            rows = view.rows
            self._shown = Growing(view.columns, lambda one: rows(one) if one.ok else None, hosts, view.titles)

    def add(self, one: Outcome) -> None:
        """Take one answer in."""
        self._shown.arrived(one.host, one)

    def take(self, done: Sequence[Outcome]) -> None:
        """Take all answers in, and show them."""
        for one in done:
            self.add(one)
        self.end()

    async def follow(self) -> None:
        """Show what there is, again and again, until cancelled."""
        try:
            await self._shown.follow()
        except BrokenPipeError:
            # A change under way must not be given up because a pipe was closed.
            if not self._changing:
                raise

    def end(self, *, failures: bool = True) -> None:
        """Show the rest, and who failed."""
        self._shown.end()
        done = self._shown.done
        good = [one for one in done if one.ok] if self._view else []
        if good and self._view and isinstance(self._shown, Growing) and self._shown.empty and sys.stdout.isatty():
            output.talk(f"no {self._view.noun} on {text.joined(list(dict.fromkeys(one.host for one in good)))}")
        for one in good:
            if more := (one.answer.result or {}).get("more"):
                output.talk(f"{one.host}: {more} more are not shown")
        for one in done if failures else ():
            output.failure(one, changing=bool(self._changing))
