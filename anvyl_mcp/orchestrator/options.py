"""What a clause says about a tool's arguments, and the clause without it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anvyl_mcp.orchestrator.sentences import unmask
from anvyl_mcp.orchestrator.vocabulary import MARK, NAME

PERIOD = r"(?:(?:\d+\s*(?:s|sec|m|min|h|d|seconds?|minutes?|hours?|days?)\b\s*)+|second|minute|hour|day)"
LEAD = r"(?:(?:with|by|using|and|a|,)\s+)*"
OPTIONS = {
    "tail": r"(?:(?:the\s+)?(?:last|latest)\s+)?(?P<value>\d+)\s+lines?",
    "since": r"(?:since|(?:(?:in|from|for|over|during|within)\s+)?(?:the\s+)?(?:last|past))\s+"
    rf"(?P<value>{PERIOD}|(?<=since\s)\d{{4}}-\S+)(?:\s*ago)?",
    "timeout": r"(?P<value>\d+)\s+sec(?:ond)?s?",
    "grep": r"(?:that\s+)?(?:grep(?:\s+for)?|contain(?:s|ing)?|match(?:es|ing)?|mention(?:s|ing)?)\s+"
    rf"(?P<value>{MARK}|\S+)",
    "name": rf"(?:named|called)\s+(?P<value>{NAME})",
    "all": r"(?:(?:including|also|even|with)\s+)?(?:the\s+)?(?:stopped|exited|dead)(?:\s+ones)?"
    r"|(?:all|every)(?!.*\brunning\b)",
    "force": r"-?-?force|-f|forced|forcibly|by\s+force",
}
"""How people say what an argument of this name wants to know; used where a tool has it."""


def take_options(
    clause: str, arguments: Mapping[str, Any], quoted: Sequence[str], objects: Iterable[str] = ()
) -> tuple[str, dict[str, Any]]:
    """The clause without what it says about a tool's arguments, and the values. `objects` name what must exist."""
    values: dict[str, Any] = {}

    def given(match: re.Match[str], argument: str) -> str:
        _put(
            values, argument, arguments.get(argument, {}), unmask(match.groupdict("true").get("value", "true"), quoted)
        )
        return " "

    def pair(match: re.Match[str]) -> str:
        return given(match, match["key"]) if match["key"] in {*arguments, "host"} else match[0]

    clause = re.sub(rf"(?<!\S){LEAD}(?P<key>\w+)=(?P<value>{MARK}|\S+)", pair, clause)
    for argument, schema in arguments.items():
        if argument in values or argument in objects:
            continue
        ways = [OPTIONS[argument]] if argument in OPTIONS else []
        if schema.get("type") == "integer":
            ways.append(rf"-?-?{argument}(?:\s+of)?\s+(?P<value>\d+)(?:\s+(?:seconds?|lines?))?")
        elif schema.get("type") == "boolean" and not ways:
            ways.append(rf"-?-?{argument}")
        for way in ways:
            if match := re.search(rf"(?<!\S){LEAD}(?:{way})(?!\S)", clause, re.IGNORECASE):
                clause = clause[: match.start()] + given(match, argument) + clause[match.end() :]
                break
    return " ".join(clause.split()), values


def _put(values: dict[str, Any], argument: str, schema: Mapping[str, Any], value: str) -> None:
    match schema.get("type"):
        case "array":
            values[argument] = [*values.get(argument, []), *value.split(",")]
        case "integer" if value.isdecimal():
            values[argument] = int(value)
        case "boolean":
            values[argument] = value.lower() in ("true", "yes", "1", "on")
        case _ if argument == "since":
            one = re.sub(r"^(?=[a-z])", "1", value)
            values[argument] = re.sub(r"(\d+)\s*([a-z])[a-z]*\s*", r"\1\2", one)
        case _:
            values[argument] = value
