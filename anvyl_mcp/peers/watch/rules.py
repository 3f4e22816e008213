"""Rules of a watch: parse conditions like `unhealthy for 10 minutes` and `disk will be full in 3 days`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import ConfigInvalid

StateKind = Literal["unhealthy", "stopped", "restarting", "gone", "engine"]
CountKind = Literal["restarted", "died"]
LevelKind = Literal["memory", "cpu", "disk"]

STATES: Mapping[str, StateKind] = {
    "unhealthy": "unhealthy",
    "stopped": "stopped",
    "restarting": "restarting",
    "gone": "gone",
    "down": "gone",
    "unreachable": "gone",
}
COUNTED: Mapping[str, CountKind] = {
    "restarted": "restarted",
    "restarts": "restarted",
    "died": "died",
    "dies": "died",
    "stopped": "died",
    "exited": "died",
}
STATE = re.compile(r"(?:is |are )?(?P<state>\w+)(?: for (?:more than |over )?(?P<time>.+))?")
COUNT = re.compile(
    r"(?P<what>\w+) (?:more than |over )?(?P<times>\d+) times? (?:in|within|per|every) (?:less than )?(?P<time>.+)"
)
LEVEL = re.compile(
    r"(?P<what>memory|ram|cpu|disk)(?: use| usage)?(?: is)? (?:over|above|more than|>) ?(?P<limit>.+?)"
    r"(?: for (?P<time>.+))?"
)
FULL = re.compile(r"(?:the )?disk (?:will be |is |gets )?full (?:in|within) (?:less than )?(?P<time>.+)")
PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?(?:%|percent)")
FIELDS = ("when", "name", "hosts", "urgent")
EXAMPLES = (
    "like `unhealthy for 10 minutes`, `restarted 5 times in an hour`, `memory over 90 % for 10 minutes` or "
    "`disk will be full in 3 days`"
)
MOST_SECONDS = 90 * 86400


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `kind` is a state, a counted event, a level, or `filling` (a disk); `name`: of containers, with `*`.

    `seconds`: how long it must hold, or the time in which events are counted, or in which a disk is full. `limit`:
    percent, or bytes if `in_bytes`. `hosts`: selector.
    """

    when: str
    kind: StateKind | CountKind | LevelKind | Literal["filling"]
    seconds: float = 0.0
    times: int = 0
    limit: float = 0.0
    in_bytes: bool = False
    name: str = ""
    hosts: str = "all"
    urgent: bool = False

    def covers_name(self, name: str) -> bool:
        """Whether the rule is about a container."""
        return fnmatchcase(name, self.name or "*")

    @property
    def is_about_machines(self) -> bool:
        """Whether the rule is about the machine, not about containers."""
        return self.kind in ("gone", "engine", "disk", "filling") or (self.kind in ("memory", "cpu") and not self.name)


def parse_rule(row: Mapping[str, Any], place: str) -> Rule:
    """Parse one `[[watch_rules]]` table. `place` names the file and the line.

    Raises:
        ConfigInvalid: it cannot be parsed.
    """
    for key in row:
        if key not in FIELDS:
            raise ConfigInvalid(f"{place}: a rule has no `{key}`", hint=f"use {text.join_names(FIELDS)}")
    when, name, hosts, urgent = (row.get(key, "") for key in FIELDS)
    if not all(isinstance(one, str) for one in (when, name, hosts)) or urgent not in ("", True, False):
        raise ConfigInvalid(
            f"{place}: a field of the rule has the wrong type", hint="use text; `urgent` is true or false"
        )
    rule = _parse_condition(" ".join(str(when).lower().split()))
    if rule is None:
        raise ConfigInvalid(f"{place}: `{when}` is not a condition", hint=EXAMPLES)
    if name and rule.kind in ("gone", "engine", "disk", "filling"):
        raise ConfigInvalid(
            f"{place}: `{when}` is about machines, so it takes no `name`", hint="choose machines with `hosts`"
        )
    return Rule(
        str(when),
        rule.kind,
        rule.seconds,
        rule.times,
        rule.limit,
        rule.in_bytes,
        str(name).strip(),
        str(hosts).strip() or "all",
        bool(urgent),
    )


def _parse_condition(words: str) -> Rule | None:
    if found := FULL.fullmatch(words):
        seconds = _duration(found["time"])
        return Rule(words, "filling", seconds) if seconds else None
    if found := LEVEL.fullmatch(words):
        return _level(found)
    if (found := COUNT.fullmatch(words)) and found["what"] in COUNTED:
        seconds, times = _duration(found["time"]), int(found["times"])
        return Rule(words, COUNTED[found["what"]], seconds, times) if seconds and 1 <= times <= 1000 else None
    if (found := STATE.fullmatch(words)) and found["state"] in STATES:
        seconds = _duration(found["time"]) if found["time"] else 0.0
        return Rule(words, STATES[found["state"]], seconds) if seconds is not None else None
    return None


def _level(found: re.Match[str]) -> Rule | None:
    kind: LevelKind = {"cpu": "cpu", "disk": "disk"}.get(found["what"], "memory")  # type: ignore[assignment]  # literals
    seconds = _duration(found["time"]) if found["time"] else 0.0
    if seconds is None:
        return None
    if percent := PERCENT.fullmatch(found["limit"]):
        limit = float(percent[1])
        return Rule(found[0], kind, seconds, limit=limit) if 0 < limit <= (100 if kind != "cpu" else 100_000) else None
    size = text.parse_size(found["limit"]) if kind == "memory" and not found["limit"].isdecimal() else None
    return Rule(found[0], kind, seconds, limit=size, in_bytes=True) if size else None


def _duration(words: str) -> float | None:
    """Parse `10 minutes`, `an hour`, `a week`; None if malformed, or longer than history is kept."""
    words = re.sub(r"^(?:an?|one|the last) ", "1 ", words.strip())
    words = re.sub(r"^(?=hour|minute|day|week)", "1 ", words)
    if weeks := re.fullmatch(r"(\d{1,2}) ?w(?:eeks?)?", words):
        seconds: float | None = int(weeks[1]) * 7 * 86400
    else:
        seconds = None if words.isdecimal() else text.parse_duration(words)
    return seconds if seconds and seconds <= MOST_SECONDS else None
