"""Displays the results of one tool on several hosts as they arrive."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from anvyl_mcp.cli.runtime import output
from anvyl_mcp.cli.runtime.live_table import LiveResults, LiveTable
from anvyl_mcp.core import text
from anvyl_mcp.peers.changes import wording
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Outcome


@dataclass(frozen=True)
class TableView:
    """How results become table rows; `titles` are the column headings on a terminal."""

    columns: Sequence[str]
    rows: Callable[[Outcome], list[list[str]]]
    titles: Mapping[str, str] = field(default_factory=dict)
    noun: str = ""


def table_view(tool: ToolListing, titles: Mapping[str, str] | None = None) -> TableView | None:
    """Table view of a tool whose output schema is a list; None for other tools."""
    schema = tool.output_schema
    noun = text.rows_field(schema)
    if not noun:
        return None
    columns = list(text.table_rows({}, schema)[0])
    if tool.toolset == "fleet":
        return TableView(columns, lambda one: text.table_rows(one.answer.result or {}, schema)[1], titles or {}, noun)

    def rows(one: Outcome) -> list[list[str]]:
        return [[one.host, *row] for row in text.table_rows(one.answer.result or {}, schema)[1]]

    return TableView(["host", *columns], rows, titles or {}, noun)


class TextDisplay(LiveResults[Outcome]):
    """Prints text per host, or a sentence per change."""

    def __init__(self, hosts: Sequence[str], *, changing: bool = False) -> None:
        super().__init__(hosts)
        self._changing = changing

    def draw(self, fresh: list[Outcome]) -> None:
        """Print the new results."""
        good = [one for one in fresh if one.ok]
        if self.live and (good or not self.waiting):
            self.live.end()
        for one in good:
            if self._changing:
                output.print_text("\n".join(wording.report([one])))
            else:
                output.print_result(one, alone=self.single_host)
        if self.live and self.waiting:
            self.live.show([self.waiting_line()])


class AnswerDisplay:
    """Displays results as a live table if there is a view, else as text per host."""

    def __init__(self, view: TableView | None, hosts: Sequence[str], *, changing: str = "") -> None:
        """`hosts`: the host of each expected call, with repeats. `changing`: name of the tool if it makes changes."""
        self._changing = changing
        self._view = view
        self._shown: TextDisplay | LiveTable[Outcome] = TextDisplay(hosts, changing=bool(changing))
        if changing:
            self._shown.past_verb = wording.past_tense(changing.partition("_")[0])
        if view is not None:
            rows = view.rows
            self._shown = LiveTable(view.columns, lambda one: rows(one) if one.ok else None, hosts, view.titles)

    def add(self, one: Outcome) -> None:
        """Add one result."""
        self._shown.add(one.host, one)

    def show_all(self, done: Sequence[Outcome]) -> None:
        """Add all results and print them."""
        for one in done:
            self.add(one)
        self.end()

    async def follow(self) -> None:
        """Keep the display up to date until cancelled."""
        try:
            await self._shown.follow()
        except BrokenPipeError:
            # A closed pipe must not abort a change in progress.
            if not self._changing:
                raise

    def end(self, *, failures: bool = True) -> None:
        """Print the remaining results, then the failures."""
        self._shown.end()
        done = self._shown.done
        good = [one for one in done if one.ok] if self._view else []
        if good and self._view and isinstance(self._shown, LiveTable) and self._shown.empty and sys.stdout.isatty():
            output.print_message(
                f"no {self._view.noun} on {text.join_names(list(dict.fromkeys(one.host for one in good)))}"
            )
        for one in good:
            if more := (one.answer.result or {}).get("more"):
                output.print_message(f"{one.host}: {more} more are not shown")
        for one in done if failures else ():
            output.print_failure(one, changing=bool(self._changing))
