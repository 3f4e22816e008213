"""Shorten results to what fits into the context of a model, and count what was left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

MODEL_BYTES = 96_000
"""Limit of one response, text and structured result together: about 24,000 tokens. Claude Code refuses over 25,000."""
PROGRAM_BYTES = 256 * 1024
"""Limit for our own clients, which show the response to a person or shorten it themselves."""
MIN_CHARACTERS = 1000
"""Characters that a shortened text keeps at least."""
MIN_MAP_FIELDS = 50
"""An object with more fields than this is a map of names, not a record, so entries may be dropped."""
NARROWING_ARGUMENTS = ("name", "grep", "since", "tail", "limit", "label", "host")
"""Arguments that make a result smaller, the most effective first."""

JsonContainer = dict[str, Any] | list[Any]


class ResultPart(NamedTuple):
    """A list, map or text inside a result, and the container and key that hold it."""

    holder: JsonContainer
    key: Any
    size: int

    @property
    def value(self) -> Any:
        """The list, map or text."""
        return self.holder[self.key]


def json_size(value: Any) -> int:
    """Return the encoded size of a JSON value in bytes."""
    return len(json.dumps(value, ensure_ascii=False).encode())


def narrowing_hint(arguments: Mapping[str, Any]) -> str:
    """Return a hint how to get a smaller result from a tool with these arguments."""
    usable = [f"`{name}`" for name in NARROWING_ARGUMENTS if name in arguments]
    return f"ask for less with {', '.join(usable)}" if usable else "the rest does not fit into one response"


def shorten_result(result: Mapping[str, Any], most: int, hint: str) -> tuple[dict[str, Any], list[str]]:
    """Return the result in at most `most` bytes, and a note for each shortened part that has no note of its own.

    Long texts lose their end, lists of log lines their beginning, other lists and maps their end.
    """
    shortened: dict[str, Any] = json.loads(json.dumps(result, ensure_ascii=False))
    notes: list[str] = []
    longest = max(MIN_CHARACTERS, most // 4)
    for part in [part for part in _parts(shortened) if isinstance(part.value, str) and len(part.value) > longest]:
        part.holder[part.key] = f"{part.value[:longest]}… {len(part.value) - longest} more characters"
        if isinstance(part.holder, dict) and "truncated" in part.holder:
            part.holder["truncated"] = True
    while (excess := json_size(shortened) - most) > 0:
        many = [part for part in _parts(shortened) if isinstance(part.value, dict | list) and len(part.value) > 0]
        many = [part for part in many if isinstance(part.value, list) or len(part.value) > MIN_MAP_FIELDS]
        if not many:
            break
        part = max(many, key=lambda one: one.size)
        _note_omission(part, _drop_entries(part, excess), hint, notes)
    return shortened, notes


def _parts(value: Any) -> Iterator[ResultPart]:
    entries: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict | list):
        entries = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, entry in entries:
        if isinstance(entry, str | dict | list):
            yield ResultPart(value, key, json_size(entry))
        yield from _parts(entry)


def _drop_entries(part: ResultPart, excess: int) -> int:
    """Drop entries until the excess is gone, with room for the note, and return how many were dropped."""
    value, gone, dropped = part.value, 0, 0
    newest_last = part.key == "lines"
    names = list(value) if isinstance(value, dict) else []
    while value and gone < excess + 200:
        entry = value.pop(names.pop()) if isinstance(value, dict) else value.pop(0 if newest_last else -1)
        gone, dropped = gone + json_size(entry) + 2, dropped + 1
    return dropped


def _note_omission(part: ResultPart, count: int, hint: str, notes: list[str]) -> None:
    holder = part.holder if isinstance(part.holder, dict) else {}
    if "truncated" in holder:
        holder["truncated"] = True
    if isinstance(holder.get("more"), int) and isinstance(part.value, list):
        holder["more"] += count
    line = f"{count} more `{part.key}` left out to keep the answer short; {hint}"
    if holder.get("note") == "":
        holder["note"] = line
    elif line not in notes:
        notes.append(f"… {line}")
