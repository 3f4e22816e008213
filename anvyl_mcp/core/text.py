"""Format values for people and models, and sanitize text from containers.

The schema of a result controls its format: `format` (`bytes`, `date-time`…) on a field, `columns` on a row. The text
results of the server and the tables of the CLI use the schema only, so neither depends on a particular tool.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# C0 and C1 without tab and newline, surrogates, line separators, and the default-ignorable characters of Unicode:
# format controls, variation selectors, fillers, tags and their unassigned neighbours. They can hide or reorder text, or
# carry a message that a model reads and a person does not see. Joined emoji are split into visible parts; format
# characters with a glyph of their own, like the Arabic number sign, are kept.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029"
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
LINE_BREAKS = re.compile("[\t\n\u2028\u2029]+")
PLAIN_WORD = re.compile(r"[\w./:@=+-]+")
HUMAN_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", re.IGNORECASE)
HUMAN_DURATION = re.compile(
    r"(\d+)\s*(s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?)(?![a-z])", re.IGNORECASE
)
MAX_DIGITS = 18
MAX_BYTES = 2**63
UP = re.compile(r"Up (?P<time>[^()]+?)(?: \((?P<note>[^()]+)\))?")
ENDED = re.compile(r"(?P<state>Exited|Restarting|Dead) \((?P<code>-?\d+)\) (?P<time>.+?)(?: ago)?")
REMOVING = "Removal In Progress"
ONE_LINE_FIELDS = frozenset({"id", "name", "host", "image", "tags", "state", "status", "health"})
"""Fields of results that are inserted into sentences, so they must be on one line."""
EARLIEST_DATE, LATEST_DATE = 946_684_800, 253_402_300_800
"""Seconds since 1970 of the years 2000 and 10000. Times outside are unset or wrong."""
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def clean(text: str) -> str:
    """Remove colour codes and control, bidi and invisible characters; keep tabs and newlines."""
    return UNSAFE.sub("", ANSI.sub("", text.replace("\r\n", "\n")))


def one_line(text: str) -> str:
    """Clean `text` and join its lines, so that foreign text cannot start a new line."""
    return LINE_BREAKS.sub(" ", clean(text))


def format_value(value: Any) -> str:
    """Format an argument value on one line, quoted as JSON unless it is a plain word."""
    if isinstance(value, str) and PLAIN_WORD.fullmatch(value):
        return value
    return one_line(json.dumps(value, ensure_ascii=False))


def clean_json(value: Any, field: str = "") -> Any:
    """Clean every text in a JSON value, field names too. `ONE_LINE_FIELDS` are put on one line."""
    if isinstance(value, str):
        return one_line(value) if field in ONE_LINE_FIELDS else clean(value)
    if isinstance(value, list):
        return [clean_json(entry, field) for entry in value]
    if isinstance(value, dict):
        return {one_line(str(name)): clean_json(entry, str(name)) for name, entry in value.items()}
    return value


def format_size(count: float) -> str:
    """Format a number of bytes: `512 B`, `1.5 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if round(abs(value)) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.0f} TiB" if value >= 100 else f"{value:.3g} TiB"


def parse_size(text: str) -> int | None:
    """Parse `512m`, `1.5 GB` or `4096` into bytes; None if malformed. Units are powers of 1024, as in Docker."""
    match = HUMAN_SIZE.fullmatch(text)
    if not match or len(match[1]) > MAX_DIGITS:
        return None
    count = int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))
    return count if count < MAX_BYTES else None


def parse_duration(text: str) -> int | None:
    """Parse `90`, `10m`, `1h30m` or `2 days` into seconds; None if malformed."""
    text = text.strip()
    if len(text) > MAX_DIGITS * 4:
        return None
    if text.isdecimal():
        return int(text)
    parts = HUMAN_DURATION.findall(text)
    if not parts or HUMAN_DURATION.sub("", text).strip(" ,"):
        return None
    return sum(int(number) * UNIT_SECONDS[unit[0].lower()] for number, unit in parts)


def format_duration(seconds: float) -> str:
    """Format seconds in the largest unit: `45 s`, `3 h`, `12 days`."""
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def shorten_status(status: str) -> str:
    """Shorten the status text of an engine, the state first: `unhealthy, 21 min`, `exited (1), 2 h`."""
    if match := UP.fullmatch(status):
        note = (match["note"] or "up").removeprefix("health: ").lower()
        return f"{note} {_short_time(match['time'])}" if note == "up" else f"{note}, {_short_time(match['time'])}"
    if match := ENDED.fullmatch(status):
        return f"{match['state'].lower()} ({match['code']}), {_short_time(match['time'])}"
    return status.lower() if status in ("Created", "Dead") else "removing" if status == REMOVING else status


def _short_time(words: str) -> str:
    """Shorten a time as Docker and Podman write it: `21 minutes` to `21 min`."""
    words = re.sub(r"^Less than a second", "0 seconds", re.sub(r"^About an? ", "1 ", words))
    return re.sub(r"(minute|hour|second)s?$", lambda unit: {"m": "min", "h": "h", "s": "s"}[unit[1][0]], words)


def format_timestamp(seconds: float) -> str:
    """Format seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def format_local_time(when: str) -> str:
    """Convert an ISO 8601 time to local time, with the date unless it is today."""
    try:
        then = datetime.fromisoformat(when).astimezone()
    except (ValueError, OverflowError):
        return when
    today = then.date() == datetime.now().astimezone().date()
    return then.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def format_age(when: str) -> str:
    """Format an ISO 8601 time as an age: `3 h ago`. Empty for unset times, like 1970 or the year 1."""
    try:
        then = datetime.fromisoformat(when)
    except ValueError:
        return when
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    if then.year < 2000:
        return ""
    return f"{format_duration(max(0.0, (datetime.now(UTC) - then).total_seconds()))} ago"


def format_cell(value: Any, schema: Mapping[str, Any]) -> str:
    """Format one value as short text, by its schema."""
    if value is None or value in ("", []):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        item = schema.get("items", {})
        return ", ".join(format_cell(entry, item) for entry in value)
    if isinstance(value, dict):
        fields = _properties(schema)
        shown = ((key, format_cell(entry, fields.get(key, {}))) for key, entry in value.items())
        return " ".join(f"{key}={text}" for key, text in shown if text)
    if show := FORMATTERS.get(schema.get("format", "")):
        # A host with another version may return a value that does not match our schema.
        with suppress(TypeError, ValueError, OverflowError):
            return show(value)
    return f"{value:g}" if isinstance(value, float) else one_line(str(value))


FORMATTERS: dict[str, Callable[[Any], str]] = {
    "bytes": format_size,
    "date-time": format_age,
    "seconds": format_duration,
    "percent": "{:.0f} %".format,
    "times": lambda count: f"×{count}" if count > 1 else "",
}
"""Formatter for each `format` in a schema."""


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties", {})
    assert isinstance(properties, Mapping)
    return properties


def resolve_schema(schema: Mapping[str, Any], *, keep_null: bool = False) -> dict[str, Any]:
    """Inline the local references of a JSON schema, and drop null branches, or keep them as a second type."""
    definitions = schema.get("$defs", {})

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(entry) for entry in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            node = {**definitions[node["$ref"].rsplit("/", 1)[-1]], **{k: v for k, v in node.items() if k != "$ref"}}
        if "anyOf" in node:
            real = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
            if len(real) == 1:
                node = {**walk(real[0]), **{k: v for k, v in node.items() if k != "anyOf"}}
                if keep_null and isinstance(node.get("type"), str):
                    node["type"] = [node["type"], "null"]
                return walk(node)
        return {key: walk(entry) for key, entry in node.items() if key != "$defs"}

    result = walk(dict(schema))
    assert isinstance(result, dict)
    return result


def rows_field(schema: Mapping[str, Any]) -> str:
    """Return the name of the field that holds the rows of a result; empty if the result is not a list."""
    for name, field in _properties(schema).items():
        if "columns" in field.get("items", {}):
            return str(name)
    return ""


def table_rows(value: Mapping[str, Any], schema: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return column names and cells of a list result. `schema` comes from `resolve_schema`."""
    field = rows_field(schema)
    item = _properties(schema)[field]["items"]
    columns: list[str] = item["columns"]
    kinds = _properties(item)
    entries = value.get(field)
    found = [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
    return columns, [[format_cell(entry.get(name), kinds.get(name, {})) for name in columns] for entry in found]


def format_result(value: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Format a result as text: rows, or `name: value` lines. `schema` comes from `resolve_schema`."""
    if field := rows_field(schema):
        columns, cells = table_rows(value, schema)
        if not cells:
            return f"no {field.replace('_', ' ')}"
        lines = [_line(row) for row in cells]
        return "\n".join(["  ".join(columns), *lines, *more_note(value.get("more"))])
    lines = []
    for name, entry in value.items():
        field = _properties(schema).get(name, {})
        if isinstance(entry, list) and entry and isinstance(entry[0], dict):
            lines += [f"{name}: {format_cell(row, field.get('items', {}))}" for row in entry]
        elif text := format_cell(entry, field):
            lines.append(f"{name.replace('_', ' ')}: {text}")
    return "\n".join(lines)


def _line(row: Sequence[str]) -> str:
    """Join cells with two spaces; an empty cell before the last one becomes a dash."""
    filled = max((number for number, text in enumerate(row, 1) if text), default=0)
    return "  ".join(text or "-" for text in row[:filled])


def more_note(more: Any) -> list[str]:
    """Return the last line of a truncated list, or nothing."""
    return [f"… {more} more; narrow the question or raise `limit`"] if more else []


def join_names(names: Sequence[str]) -> str:
    """List names in a sentence: `a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def plural(count: int, noun: str) -> str:
    """`1 container`, `3 containers`, `3 processes`."""
    return (
        f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
    )
