"""What commands print: data to stdout, talk to stderr; tables on a terminal, tab-separated when piped."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from anvyl_mcp import text
from anvyl_mcp.errors import AnvylError
from anvyl_mcp.peers.fleet import Outcome
from anvyl_mcp.peers.listing import ToolListing


def document(value: Mapping[str, Any]) -> None:
    """The one JSON document of a `--json` command."""
    # What was typed may hold bytes that are no text; JSON has a spelling for those.
    print(json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode())


def talk(words: str) -> None:
    """A line to the person, never to a pipe; nothing in it moves the cursor."""
    print(text.clean(words), file=sys.stderr, flush=True)


def problem(error: AnvylError) -> None:
    """What failed, and what to try."""
    print(_red("error:"), text.clean(error.message), file=sys.stderr, flush=True)
    if error.hint:
        talk(f"hint:  {error.hint}")


def _red(word: str) -> str:
    return f"\x1b[31m{word}\x1b[0m" if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else word


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows of cells: aligned and coloured on a terminal, tab-separated with a header otherwise."""
    if not sys.stdout.isatty():
        print("\t".join(columns))
        for row in rows:
            print("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    for column in columns:
        drawn.add_column(column.upper(), overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    Console(highlight=False).print(drawn)


def _style(cell: str) -> str:
    """Colour by what a state says, on any table."""
    low = cell.lower()
    if "unhealthy" in low or low.startswith(("dead", "restarting", "unreachable", "timeout", "engine_", "refused")):
        return "red"
    if low.startswith(("up ", "running", "ok")):
        return "green"
    return "dim" if low.startswith(("exited", "created", "paused")) else ""


def outcomes(
    tool: ToolListing, done: Mapping[str, Outcome], *, tables_only: bool = False, failures: bool = True
) -> None:
    """What one tool answered on each host: one table for lists, text per host for the rest, then who failed.

    `tables_only`, `failures`: what of it an answer in words says already.
    """
    schema = tool.output_schema
    good = [one for one in done.values() if one.ok and one.answer.result is not None]
    if text.rows_field(schema) and good:
        columns: list[str] = []
        rows = []
        for one in good:
            columns, cells = text.rows(one.answer.result or {}, schema)
            rows += [[one.host, *row] for row in cells]
        headed = tool.toolset != "fleet"
        if not rows and sys.stdout.isatty():
            if not tables_only:
                talk(f"no {text.rows_field(schema)} on {text.joined([one.host for one in good])}")
        else:
            table(["host", *columns] if headed else columns, rows if headed else [row[1:] for row in rows])
        for one in good:
            if more := (one.answer.result or {}).get("more"):
                talk(f"{one.host}: {more} more are not shown")
    elif not tables_only:
        for one in (one for one in done.values() if one.ok):
            _block(one, alone=len(done) == 1)
    for one in done.values() if failures else ():
        failure(one)


def _block(one: Outcome, *, alone: bool) -> None:
    words = one.answer.text
    if alone:
        print(words)
    elif "\n" in words:
        print(f"{one.host}:")
        print("\n".join(f"  {line}" for line in words.splitlines()))
    else:
        print(f"{one.host}: {words}")


def failure(one: Outcome) -> None:
    """One host's trouble, beside the answers of the others."""
    if one.error is not None:
        problem(type(one.error)(f"{one.host}: {one.error.message}", hint=one.error.hint))


def hosts_document(done: Mapping[str, Outcome], error: AnvylError | None = None) -> dict[str, Any]:
    """`{"hosts": {name: {"ok", "word", "result" | "error"}}, "error"}`."""
    hosts: dict[str, Any] = {}
    for host, one in done.items():
        if one.error is None:
            hosts[host] = {"ok": True, "word": one.word, "result": one.answer.result}
        else:
            hosts[host] = {"ok": False, "word": one.word, "error": str(one.error), "code": one.error.code}
    return {"hosts": hosts, "error": error.as_dict() if error else None}


def no_hosts(error: AnvylError) -> dict[str, Any]:
    """The document of a command that could not start."""
    return hosts_document({}, error)


def failed(field: str, empty: object = None) -> Callable[[AnvylError], dict[str, Any]]:
    """The document of a command whose result stands in `field`, for when it could not start."""
    return lambda error: {field: empty, "error": error.as_dict()}
