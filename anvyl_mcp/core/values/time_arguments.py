"""Times in words mean those of the person who asks, so they become exact before a call goes to a host elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from anvyl_mcp.core.values.time_phrases import is_duration, local_zone, parse_interval, parse_since, parse_until

MARK = "x-time"
"""Schema key of an argument that is a time: `since` if its beginning counts, `until` if its end does."""


def make_exact(schemas: Mapping[str, Any], arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replace words like `yesterday` with ISO 8601. Durations stay: they are counted back on the host's own clock.

    `schemas`: those of the tool's arguments, by name.

    Raises:
        InvalidInput: a time cannot be read.
    """
    marked = {name: schema[MARK] for name, schema in schemas.items() if MARK in schema}
    exact = dict(arguments)
    for name, bound in marked.items():
        words = arguments.get(name)
        if isinstance(words, str) and words.strip() and not is_duration(words):
            parse = parse_until if bound == "until" else parse_since
            exact[name] = parse(words, datetime.now(UTC), local_zone()).isoformat(timespec="seconds")
    return exact if marked else arguments


def remark_on(words: str) -> str:
    """How a time in words was taken that may stand for two times, or empty.

    Raises:
        InvalidInput: it cannot be read.
    """
    if not words.strip() or is_duration(words):
        return ""
    return parse_interval(words, datetime.now(UTC), local_zone()).remark
