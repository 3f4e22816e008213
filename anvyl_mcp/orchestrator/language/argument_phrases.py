"""Extract arguments of a tool from a clause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.normalize import unmask
from anvyl_mcp.orchestrator.language.vocabulary import MARK, NAME

PERIOD = r"(?:(?:\d+\s*(?:s|sec|m|min|h|d|seconds?|minutes?|hours?|days?)\b\s*)+|second|minute|hour|day)"
LEAD = r"(?:(?:with|by|using|and|a|the|,)\s+){0,4}"
"""Bounded, because an unbounded run before an option would be rescanned from every word."""
OPTIONS: dict[str, str] = {
    "tail": r"(?:(?:the\s+)?(?:last|latest)\s+)?(?P<value>\d+)\s+(?:log\s+)?lines?(?:\s+(?:of|from)(?=\s))?",
    "since": r"(?:since|(?:(?:in|from|for|over|during|within)\s+)?(?:the\s+)?(?:last|past))\s+"
    rf"(?P<value>{PERIOD}|(?<=since\s)\d{{4}}-\S+)(?:\s*ago)?",
    "timeout": r"(?:(?:within|wait(?:ing)?(?:\s+for)?)\s+"
    r"|(?<!\bfor\s)(?<!\bin\s)(?<!\bafter\s)(?<!\bevery\s)(?<!\bnext\s))"
    r"(?P<value>\d+\s*(?:sec(?:ond)?s?|min(?:ute)?s?))",
    "grep": r"(?:that\s+)?(?:grep(?:\s+for)?|contain(?:s|ing)?|match(?:es|ing)?|mention(?:s|ing)?)\s+"
    rf"(?P<value>{MARK}|\S+)",
    "label": r"label(?:l?ed|s)?(?:\s+with)?\s+(?P<value>\S+)",
    "name": rf"(?:named|called)\s+(?P<value>{NAME})",
    "all": r"(?:(?:and|including|also|even|with|plus)\s+)*(?:the\s+)?(?:(?:ones\s+)?that\s+are\s+)?"
    r"(?:stopped|exited|dead)(?:\s+ones)?(?:\s+(?:too|as\s+well|included))?"
    r"|(?:all|every)(?!.*\brunning\b)|-a|--all",
    "restart": r"(?:a\s+)?restart(?:\s+policy)?(?:\s+(?:of|is|to))?"
    r"\s+(?P<value>no|always|unless-stopped|on-failure(?::\d+)?)",
    "version": r"to\s+(?:version|revision)\s+v?(?P<value>\d+)",
    "force": r"-?-?force|-f|forced|forcibly|by\s+force",
}
"""Phrases for arguments of this name."""
MORE = {
    "network": r"(?:(?:attached|connected|joined|hooked\s+up)\s+)?(?:to|on|in|into)\s+(?:the\s+)?"
    rf"(?P<value>{NAME})\s+network",
    "ports": r"(?:on\s+)?(?:ports?\s+)?(?P<value>\d+)\s+(?:(?:mapped\s+)?to\s+"
    r"|(?:outside|external(?:ly)?|on\s+the\s+(?:host|outside))(?:\s*,)?\s+(?:(?:to|and|for)\s+)?)"
    r"(?:port\s+)?(?P<inside>\d+)(?:\s+(?:inside|internal(?:ly)?|in\s+(?:it|the\s+container)))?",
    "grep": r"(?:any|the|only)?\s*(?P<value>errors?|warnings?)(?:\s+(?:lines?|messages?))?(?:\s+(?:in|from|of)(?=\s))?",
}
UNIT = r"(?:s|secs?|seconds?|m|mins?|minutes?|h|hours?)\b"
ENTRY = r"[^\s,]*[:=/\d][^\s,]*"


def take_options(
    clause: str, arguments: Mapping[str, Any], quoted: Sequence[str], objects: Iterable[str] = ()
) -> tuple[str, dict[str, Any]]:
    """Clause with its arguments blanked out, and their values. `objects` are arguments that name existing objects."""
    values: dict[str, Any] = {}

    def given(match: re.Match[str], argument: str) -> str:
        value = ":".join(part for name in ("value", "inside") if (part := match.groupdict().get(name)))
        _put(values, argument, arguments.get(argument, {}), unmask(value or "true", quoted))
        return " " * len(match[0])

    def pair(match: re.Match[str]) -> str:
        return given(match, match["key"]) if match["key"] in {*arguments, "host"} else match[0]

    clause = re.sub(rf"(?<!\S){LEAD}(?P<key>\w+)=(?P<value>{MARK}|\S+)", pair, clause)
    for argument, schema in arguments.items():
        if argument in values or argument in objects:
            continue
        for way in _ways(argument, schema):
            if match := re.search(rf"(?:(?<!\S)|,\s+){LEAD}(?:{way})(?!\S)", clause, re.IGNORECASE):
                clause = clause[: match.start()] + given(match, argument) + clause[match.end() :]
                break
    return clause, values


def _ways(argument: str, schema: Mapping[str, Any]) -> list[str]:
    """Patterns for an argument, the longest first."""
    ways = [table[argument] for table in (OPTIONS, MORE) if argument in table]
    match schema.get("type"):
        case "integer":
            ways.insert(0, rf"-?-?{argument}(?:\s+(?:of|is|to))?\s+(?P<value>\d+(?:\s*{UNIT})?)(?:\s*lines?)?")
        case "boolean" if not ways:
            ways.append(rf"--{argument}" if argument == "volumes" else rf"-?-?{argument}")  # `its volumes` may stay
        case "array":
            ways.append(rf"(?:on\s+)?{argument.removesuffix('s')}s?\s+(?P<value>{ENTRY}(?:(?:,\s*|\s+and\s+){ENTRY})*)")
        case "string" if "default" in schema and argument not in OPTIONS:
            ways.append(rf"(?<=with\s){argument}(?:\s+(?:of|is|to))?\s+(?P<value>\S+)")
    return ways


def _put(values: dict[str, Any], argument: str, schema: Mapping[str, Any], value: str) -> None:
    match schema.get("type"):
        case "array":
            values[argument] = [*values.get(argument, []), *re.split(r",\s*|\s+and\s+", value)]
        case "integer" if (number := text.parse_duration(value)) is not None:
            values[argument] = number
        case "boolean":
            values[argument] = value.lower() in ("true", "yes", "1", "on")
        case _ if argument == "since":
            one = re.sub(r"^(?=[a-z])", "1", value)
            values[argument] = re.sub(r"(\d+)\s*([a-z])[a-z]*\s*", r"\1\2", one)
        case _ if argument == "grep" and value.lower() in ("errors", "warnings"):
            values[argument] = value[:-1].lower()
        case _:
            values[argument] = value
