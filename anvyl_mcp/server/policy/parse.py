"""Parses `policy.toml`; errors name the line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from anvyl_mcp.core.errors import ConfigInvalid, did_you_mean
from anvyl_mcp.server.policy.rules import ALLOWED_VALUES, MATCHERS, Condition, Effect, PolicyRule, PolicyRules

TOP_KEYS = ("default", "deny", "allow", "host_exec")
DEFAULTS = ("guardrails", "deny")
TABLES = ("labels", "arguments")
"""Conditions that are tables of names (of labels or arguments) and allowed values."""
RULE_KEYS = (*MATCHERS, "why")
FIX_HINT = "fix it, then run: anvyl-mcp policy check"


def parse(content: str, path: Path) -> PolicyRules:
    """Parse the text of a policy file.

    Raises:
        ConfigInvalid: it is invalid; the message names the line and the mistake.
    """
    try:
        data = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        words, _, where = str(error).partition(" (at ")
        line = re.search(r"line (\d+)", where)
        last = len(content.splitlines()) or 1
        raise _invalid(path, int(line[1]) if line else last, f"{words[:1].lower()}{words[1:]}") from error
    return _PolicyParser(content, path).rules(data)


class _PolicyParser:
    """Converts the TOML data of a file to rules. Keeps the text to find the lines of mistakes."""

    def __init__(self, content: str, path: Path) -> None:
        self._lines = content.splitlines()
        self._path = path

    def rules(self, data: Mapping[str, Any]) -> PolicyRules:
        for key in data:
            if key not in TOP_KEYS:
                raise self._invalid(self._line(key), f"unknown key `{key}`", did_you_mean(key, TOP_KEYS))
        default = data.get("default", "guardrails")
        if default not in DEFAULTS:
            choices = (
                "use `guardrails` (allow what the caller's scopes allow) or `deny` (allow only what an [[allow]] names)"
            )
            raise self._invalid(self._line("default"), f"`default` cannot be {default!r}", choices)
        return PolicyRules(
            default,
            self._all("deny", data.get("deny", [])),
            self._all("allow", data.get("allow", [])),
            self._host_exec(data["host_exec"]) if "host_exec" in data else None,
        )

    def _all(self, effect: Effect, entries: Any) -> tuple[PolicyRule, ...]:
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise self._invalid(
                self._line(effect), f"`{effect}` is not a list of rules", f"start each rule with [[{effect}]]"
            )
        places = self._headers(effect)
        known = len(places) == len(entries)
        return tuple(
            self._rule(effect, number, places[number - 1] if known else 0, entry)
            for number, entry in enumerate(entries, 1)
        )

    def _rule(self, effect: Effect, number: int, line: int, entry: Mapping[str, Any]) -> PolicyRule:
        conditions: list[Condition] = []
        for key, value in entry.items():
            at = self._line(key, line) if line else self._line(effect)
            if key not in RULE_KEYS:
                raise self._invalid(at, f"unknown key `{key}` in a rule", did_you_mean(key, RULE_KEYS))
            if key == "why":
                self._texts(key, [value], at)
            elif key == "labels" and effect == "allow":
                raise self._invalid(
                    at, "`labels` is not allowed in [[allow]], because labels can only restrict", "use it in [[deny]]"
                )
            elif key in TABLES:
                conditions += self._table(key, value, at)
            else:
                conditions.append(Condition(key, self._texts(key, value, at)))
        if effect == "allow" and not conditions:
            # A truncated file may end here.
            raise self._invalid(
                line or self._line(effect), "this [[allow]] has no conditions", "add at least one, for example `tools`"
            )
        return PolicyRule(effect, number, line, tuple(conditions), str(entry.get("why", "")))

    def _table(self, key: str, value: Any, at: int) -> Iterable[Condition]:
        if not isinstance(value, dict) or not value:
            raise self._invalid(at, f"`{key}` is not a table", f'write it like {key} = {{ "name" = "value" }}')
        for name, wanted in value.items():
            many = wanted if isinstance(wanted, list) else [wanted]
            plain = [str(one).lower() if isinstance(one, bool) else str(one) for one in many if not _nested(one)]
            if len(plain) < len(many):
                raise self._invalid(at, f'`{key}."{name}"` is not a string', "put it in quotes")
            yield Condition(key, tuple(plain), name)

    def _texts(self, key: str, value: Any, at: int) -> tuple[str, ...]:
        many = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in many):
            raise self._invalid(
                at, f"`{key}` is neither a string nor a list of strings", f'write it like {key} = ["…"]'
            )
        for one in many if key in ALLOWED_VALUES else ():
            if one not in ALLOWED_VALUES[key]:
                raise self._invalid(
                    at,
                    f"`{one}` is not one of {', '.join(ALLOWED_VALUES[key])}",
                    did_you_mean(one, ALLOWED_VALUES[key]),
                )
        return tuple(many)

    def _host_exec(self, table: Any) -> tuple[tuple[str, ...], ...]:
        line = self._line("host_exec")
        form = 'write it like allow = [["/usr/bin/df", "-h"], ["/usr/bin/systemctl", "status", "*"]]'
        if not isinstance(table, dict) or list(table) != ["allow"] or not isinstance(table["allow"], list):
            raise self._invalid(line, "[host_exec] must contain only `allow`, a list of commands", form)
        for words in table["allow"]:
            at = self._line("allow", line)
            if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
                raise self._invalid(at, "each command in [host_exec] must be a list of strings", form)
            if not words[0].startswith("/"):
                raise self._invalid(at, f"`{words[0]}` is not the full path of a program", form)
        return tuple(tuple(words) for words in table["allow"])

    def _headers(self, effect: str) -> list[int]:
        """Line numbers of the rule headers, not counting those inside multi-line strings."""
        found, inside = [], False
        for number, line in enumerate(self._lines, 1):
            if not inside and re.match(rf"\s*\[\[\s*[\"']?{effect}[\"']?\s*\]\]", line):
                found.append(number)
            if (line.count('"""') + line.count("'''")) % 2:
                inside = not inside
        return found

    def _line(self, key: str, after: int = 0) -> int:
        """Line number of a key, searched from line `after` on."""
        pattern = re.compile(rf"\s*\[{{0,2}}\s*[\"']?{re.escape(key)}[\"']?\s*[\]=.]")
        for number, line in enumerate(self._lines[after:], after + 1):
            if pattern.match(line):
                return number
        return after or 1

    def _invalid(self, line: int, what: str, hint: str = "") -> ConfigInvalid:
        return _invalid(self._path, line, what, hint)


def _nested(value: object) -> bool:
    return not isinstance(value, str | int | float)


def _invalid(path: Path, line: int, what: str, hint: str = "") -> ConfigInvalid:
    return ConfigInvalid(f"{path}, line {line}: {what}", hint=hint or FIX_HINT)
