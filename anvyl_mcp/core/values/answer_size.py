"""Answers small enough for a model's context: what is too long is shortened, with a count of what was left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

MODEL_BYTES = 96_000
"""Of one answer, text and structured result together: some 24,000 tokens. Claude Code refuses more than 25,000."""
PROGRAM_BYTES = 256 * 1024
"""The same for our own clients, which show it to a person or shorten it themselves."""
MIN_CHARACTERS = 1000
"""Characters that are left of a text, however many there are to shorten."""
MIN_MAP_FIELDS = 50
"""Fields from which on an object is a map of names, not a form with fixed fields."""
NARROWING_ARGUMENTS = ("name", "grep", "since", "tail", "limit", "label", "host")
"""Arguments that make an answer smaller, in the order in which they help."""

JsonContainer = dict[str, Any] | list[Any]


class ResultPart(NamedTuple):
    """A list, map or text somewhere in a result, and where it stands."""

    holder: JsonContainer
    key: Any
    size: int

    @property
    def value(self) -> Any:
        """The part itself."""
        return self.holder[self.key]


def json_size(value: Any) -> int:
    """Bytes of a JSON value as it is sent."""
    return len(json.dumps(value, ensure_ascii=False).encode())


def narrowing_hint(arguments: Mapping[str, Any]) -> str:
    """What narrows a question to a tool with these arguments."""
    usable = [f"`{name}`" for name in NARROWING_ARGUMENTS if name in arguments]
    return f"ask for less with {', '.join(usable)}" if usable else "the rest does not fit into one answer"


def shorten_result(result: Mapping[str, Any], most: int, hint: str) -> tuple[dict[str, Any], list[str]]:
    """The result in at most so many bytes, and a line for each part that does not itself say what was left out.

    Long texts lose their end and say so there, lists of log lines lose their beginning, other lists and maps their end.
    """
    short: dict[str, Any] = json.loads(json.dumps(result, ensure_ascii=False))
    notes: list[str] = []
    longest = max(MIN_CHARACTERS, most // 4)
    for part in [part for part in _parts(short) if isinstance(part.value, str) and len(part.value) > longest]:
        part.holder[part.key] = f"{part.value[:longest]}… {len(part.value) - longest} more characters"
        if isinstance(part.holder, dict) and "truncated" in part.holder:
            part.holder["truncated"] = True
    while (excess := json_size(short) - most) > 0:
        many = [part for part in _parts(short) if isinstance(part.value, dict | list) and len(part.value) > 0]
        many = [part for part in many if isinstance(part.value, list) or len(part.value) > MIN_MAP_FIELDS]
        if not many:
            break
        part = max(many, key=lambda one: one.size)
        _note_omission(part, _drop_entries(part, excess), hint, notes)
    return short, notes


def _parts(value: Any) -> Iterator[ResultPart]:
    entries: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict | list):
        entries = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, entry in entries:
        if isinstance(entry, str | dict | list):
            yield ResultPart(value, key, json_size(entry))
        yield from _parts(entry)


def _drop_entries(part: ResultPart, excess: int) -> int:
    """Drop entries until the excess is gone, but for what the words about it take; how many were dropped."""
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
