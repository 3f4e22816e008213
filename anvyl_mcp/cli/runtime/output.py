"""Output of commands: data to stdout, messages to stderr; tables on a terminal, tab-separated otherwise."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from anvyl_mcp.cli.terminal import screen, streams
from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Declined, NothingToDo

if TYPE_CHECKING:
    from anvyl_mcp.cli.terminal.live import LiveDisplay
    from anvyl_mcp.peers.connection.listing import ToolListing
    from anvyl_mcp.peers.fleet.fleet import Outcome
    from anvyl_mcp.peers.history.merged_history import HostEvent, MergedHistory

LABEL = re.compile(r"error: |hint:  |note:  ")
"""Prefixes of messages; wrapped lines are indented to match."""
OUR_PREFIXES = re.compile(r"^(?=(?:error|hint|note):)", re.MULTILINE)


def print_json(value: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Print the JSON document of a `--json` command; with `indent=None`, one line of a stream of documents."""
    # Escape what stdout's encoding lacks, and lone surrogates from undecodable arguments.
    words = json.dumps(value, indent=indent, ensure_ascii=not streams.is_unicode(sys.stdout.encoding))
    print(words.encode("utf-8", "backslashreplace").decode(), flush=indent is None)


def print_message(words: str) -> None:
    """Print a message to stderr, wrapped to the terminal's width.

    It may contain text from hosts, so line breaks and control characters are replaced.
    """
    words = text.one_line(words)
    label = LABEL.match(words)
    indent = label.end() if label else 2
    lines = screen.wrap(words, sys.stderr, indent)
    if label and label[0].startswith("error:"):
        lines = screen.paint("error:", "red", sys.stderr) + lines.removeprefix("error:")
    print(lines, file=sys.stderr, flush=True)


def print_error(error: AnvylError) -> None:
    """Print an error and its hint; declining a prompt is not an error, nor is a change that was made before."""
    if isinstance(error, Declined | NothingToDo):
        print_message(error.message)
        return
    print_message(f"error: {error.message}")
    if error.hint:
        print_message(f"hint:  {error.hint}")


def print_text(words: str, style: str = "") -> None:
    """Print text to stdout, wrapped to the terminal's width.

    It may contain text from hosts, so on a terminal lines that imitate our errors and hints are changed.
    """
    words = text.clean(words)
    if sys.stdout.isatty():
        words = OUR_PREFIXES.sub("  ", words)
    print(screen.paint(screen.wrap(words, sys.stdout, 2), style), flush=True)


def print_labelled(label: str, words: str, style: str) -> None:
    """Print text after a short label, such as `ok`."""
    label = f"{label:5}"
    lines = screen.wrap(f"{label} {words}", sys.stdout, len(label) + 1)
    print(screen.paint(label, style) + lines.removeprefix(label))


def print_verbatim(words: str) -> None:
    """Print text to be copied or saved, without wrapping or cleaning."""
    print(words, end="" if words.endswith("\n") else "\n")


def print_row(cells: Sequence[str]) -> None:
    """Print a tab-separated row."""
    print("\t".join(map(text.one_line, cells)))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], titles: Mapping[str, str] | None = None) -> None:
    """Print rows: aligned and coloured on a terminal, tab-separated with a header otherwise."""
    if terminal := live_display(sys.stdout):
        terminal.end(screen.TableData(columns, list(rows), titles or {}))
        return
    for cells in [columns, *rows]:
        print_row(cells)


def print_message_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows to stderr if it is a terminal."""
    if terminal := live_display(sys.stderr):
        terminal.end(screen.TableData(columns, rows, {}))


def print_outcomes(
    tool: ToolListing, done: Mapping[str, Outcome], *, tables_only: bool = False, failures: bool = True
) -> None:
    """Print the results of one tool: one table for lists, else text per host; then the failures.

    `tables_only` and `failures=False` omit what an answer in words already contains.
    """
    from anvyl_mcp.peers.history import merged_history

    schema = tool.output_schema
    good = [one for one in done.values() if one.ok and one.answer.result is not None]
    if tool.name == merged_history.TOOL:
        print_history(merged_history.merge(good))
    elif text.rows_field(schema) and good:
        columns: list[str] = []
        rows = []
        for one in good:
            columns, cells = text.table_rows(one.answer.result or {}, schema)
            rows += [[one.host, *row] for row in cells]
        headed = tool.toolset != "fleet"
        if not rows and sys.stdout.isatty():
            if not tables_only:
                print_message(f"no {text.rows_field(schema)} on {text.join_names([one.host for one in good])}")
        else:
            print_table(["host", *columns] if headed else columns, rows if headed else [row[1:] for row in rows])
        for one in good:
            if more := (one.answer.result or {}).get("more"):
                print_message(f"{one.host}: {more} more are not shown")
    elif not tables_only:
        for one in (one for one in done.values() if one.ok):
            print_result(one, alone=len(done) == 1)
    for one in done.values() if failures else ():
        print_failure(one)


def print_history(found: MergedHistory) -> None:
    """Print what happened on all hosts as one table, newest first."""
    rows = []
    for event in found.events:
        fields = event.fields
        times = f" ×{fields['times']}" if fields.get("times", 1) > 1 else ""
        name, what, who, detail = (str(fields.get(key) or "") for key in ("name", "what", "who", "detail"))
        rows.append([event_time(event), event.host, name, f"{what}{times}", who, detail])
    if rows:
        print_table(["time", "host", "name", "what", "who", "detail"], rows)


def event_time(event: HostEvent) -> str:
    """Local time on a terminal, ISO 8601 in a pipe."""
    stamp = event.time.isoformat(timespec="seconds")
    return text.format_local_time(stamp) if sys.stdout.isatty() else stamp


def print_result(one: Outcome, *, alone: bool) -> None:
    """Print the text result of one host, under its name unless it is `alone`."""
    words = text.clean(one.answer.text)
    host = screen.paint(one.host, screen.host_colour(one.host))
    if alone:
        print_text(words)
        return
    # Do not repeat the name if the text starts with it.
    first, *rest = words.removeprefix(f"{one.host}: ").split("\n")
    if rest and not words.startswith(f"{one.host}: "):
        first, rest = "", [first, *rest]
    lines = screen.wrap("\n".join([f"{one.host}: {first}".rstrip(), *(f"  {line}" for line in rest)]), sys.stdout, 2)
    print(host + lines.removeprefix(one.host))


def print_failure(one: Outcome, *, changing: bool = False) -> None:
    """Print the error of one host; for a change also what was not done."""
    from anvyl_mcp.peers.changes import wording

    if one.error is None:
        return
    where = f"could not {wording.describe(one.tool, one.arguments, [one.host])}" if changing else one.host
    print_error(one.error.on_host(where) if one.host else one.error)


def hosts_document(done: Mapping[str, Outcome], error: AnvylError | None = None) -> dict[str, Any]:
    """`{"hosts": {name: {"ok", "word", "result" | "error"}}, "error"}`."""
    from anvyl_mcp.peers.changes import outcome

    error = error or outcome.failure(done.values())
    hosts: dict[str, Any] = {}
    for host, one in done.items():
        if one.error is None:
            hosts[host] = {"ok": True, "word": one.word, "result": one.answer.result}
        else:
            # A call can fail on a healthy host, whose own word is `ok`.
            word = one.word if one.word != "ok" else "failed"
            hosts[host] = {"ok": False, "word": word, "error": str(one.error), "code": one.error.code}
    return {"hosts": hosts, "error": error.as_dict() if error else None}


def no_hosts_document(error: AnvylError) -> dict[str, Any]:
    """JSON document of a command that failed before any call."""
    return hosts_document({}, error)


def error_document(field: str, empty: object = None) -> Callable[[AnvylError], dict[str, Any]]:
    """Builder of the JSON document of a failed command whose result is in `field`."""
    return lambda error: {field: empty, "error": error.as_dict()}


def live_display(stream: TextIO) -> LiveDisplay | None:
    """A live display at the end of a terminal; None if the stream is not one."""
    if not stream.isatty():
        return None
    from anvyl_mcp.cli.terminal.live import LiveDisplay

    return LiveDisplay(stream)
