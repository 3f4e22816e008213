"""Completion candidates, from cached files only: no host is contacted, and few modules are imported."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from anvyl_mcp import __version__
from anvyl_mcp.cli.runtime import name_cache
from anvyl_mcp.cli.terminal import streams
from anvyl_mcp.core.files import config_and_state_dirs, write_atomically

Candidates = list[tuple[str, str]]
"""Candidates and their descriptions."""

PLACE_RULES = ("most-memory", "least-loaded")
SHELLS = ("bash", "zsh", "fish")
UNQUOTED = "_./:@=,+%-"
"""Characters besides letters and digits that bash does not interpret."""


def print_candidates(words: Sequence[str]) -> None:
    """Print the candidates for `bash LINE POINT BREAKS`, or `zsh|fish WORD… CURRENT`."""
    shell, *rest = words or [""]
    if shell == "bash" and len(rest) == 3:
        line, point, breaks = rest
        whole, quote = split_with_quote(line[: int(point)] if point.isdecimal() else line)
        typed = whole[1:]
        current = typed[-1] if typed else ""
        # bash replaces only the text after the last word break.
        kept = max((current.rfind(mark) for mark in breaks if not mark.isspace()), default=-1) + 1
        _print(bash_quote(value[kept:], quote) for value, _ in complete(typed) if quote != '"' or "!" not in value)
    elif shell in SHELLS:
        _print(f"{value}\t{meaning}" if meaning else value for value, meaning in complete(rest))


def bash_quote(value: str, quote: str = "") -> str:
    """Quote a value for bash, also inside an open quote."""
    if quote == "'":
        return value.replace("'", "'\\''")
    if quote:
        return "".join(f"\\{letter}" if letter in '"$`\\' else letter for letter in value)
    return "".join(letter if letter.isalnum() or letter in UNQUOTED else f"\\{letter}" for letter in value)


def _print(lines: Iterable[str]) -> None:
    streams.configure_streams()
    with suppress(BrokenPipeError):
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()


def complete(typed: Sequence[str]) -> Candidates:
    """Return the candidates for the last word, which may be empty."""
    config, state = config_and_state_dirs(os.environ)
    names = _CachedNames(config, state / "cache")
    *before, current = typed or [""]
    node, given, option = _parse_words(command_tree(state / "cache"), before)
    if option:
        return _matching(names.of(option, current, given), current)
    if current.startswith("-") and "--" not in before:
        name, separator, value = current.partition("=")
        if separator and (kind := node["options"].get(name, ["", ""])[0]):
            return [(f"{name}={word}", meaning) for word, meaning in _matching(names.of(kind, value, given), value)]
        return _matching([(name, meaning) for name, (_, meaning) in node["options"].items()], current)
    if node["commands"]:
        return _matching([(name, each["help"]) for name, each in node["commands"].items()], current)
    arguments = node["arguments"]
    if not arguments or (len(given) >= len(arguments) and not arguments[-1].endswith("...")):
        return []
    kind = arguments[min(len(given), len(arguments) - 1)].removesuffix("...")
    return _matching(names.of(kind, current, given), current)


def _parse_words(node: Mapping[str, Any], words: Sequence[str]) -> tuple[Mapping[str, Any], list[str], str]:
    """Return the command, its arguments so far, and the type of the value if an option needs one."""
    given: list[str] = []
    option, parse_options = "", True
    for word in words:
        if option:
            option = ""
        elif word == "--":
            parse_options = False
        elif parse_options and word.startswith("-"):
            option = "" if "=" in word else node["options"].get(word, ["", ""])[0]
        elif node["commands"]:
            node = node["commands"].get(word, _NO_COMMAND)
        else:
            given.append(word)
    return node, given, option


_NO_COMMAND: Mapping[str, Any] = {"options": {}, "arguments": [], "commands": {}}
"""Stands for an unknown command."""


def _matching(found: Candidates, current: str) -> Candidates:
    return [(value, meaning) for value, meaning in found if value.startswith(current)]


def _printable(found: Candidates) -> Candidates:
    """Drop names that contain control characters or look like options: they come from hosts."""
    return [(value, meaning) for value, meaning in found if value.isprintable() and not value.startswith("-")]


class _CachedNames:
    """Cached names by kind: hosts, containers, images, tools…"""

    def __init__(self, config: Path, cache: Path) -> None:
        self._cache = cache
        self._cached = name_cache.read(cache / name_cache.FILE)
        self._hosts: dict[str, list[str]] = dict(self._cached.get("hosts", {}))
        with suppress(OSError, ValueError, AttributeError, TypeError):
            self._hosts |= _read_hosts_file(config / "hosts.toml", cache / name_cache.FILE)

    def of(self, kind: str, current: str, given: Sequence[str]) -> Candidates:
        """Return the candidates of one kind; `given` are the previous arguments."""
        return _printable(self._of(kind, current, given))

    def _of(self, kind: str, current: str, given: Sequence[str]) -> Candidates:
        match kind:
            case "HOSTS":
                return self._selectors(current)
            case "HOST":
                return [(host, " ".join(tags)) for host, tags in self._hosts.items()]
            case "RULE":
                return [(rule, "") for rule in PLACE_RULES] + self._tags()
            case "SHELL":
                return [(shell, "") for shell in SHELLS]
            case "TOOL":
                return [(name, tool["description"].split("\n")[0]) for name, tool in self._tools().items()]
            case "KEY=VALUE":
                return self._arguments(current, given)
        return [(name, ", ".join(hosts)) for name, hosts in self._objects(kind.lower()).items() if name not in given]

    def _objects(self, kind: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for host, names in self._cached.get("names", {}).get(kind, {}).items():
            for name in names:
                found.setdefault(str(name), []).append(host)
        return dict(sorted(found.items()))

    def _selectors(self, current: str) -> Candidates:
        first, comma, _ = current.rpartition(",")
        taken = first.split(",")
        words = [(host, " ".join(tags)) for host, tags in self._hosts.items()] + self._tags()
        words += [] if comma else [("all", "every host"), ("local", "this host")]
        return [(f"{first}{comma}{word}", meaning) for word, meaning in words if word not in taken]

    def _tags(self) -> Candidates:
        tags: dict[str, list[str]] = {}
        for host, each in self._hosts.items():
            for tag in each:
                tags.setdefault(f"@{tag}", []).append(host)
        return [(tag, ", ".join(hosts)) for tag, hosts in sorted(tags.items())]

    def _tools(self) -> dict[str, Any]:
        """Load the newest cached catalogue."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            newest = max(self._cache.glob("tools-*.json"), key=lambda file: file.stat().st_mtime_ns, default=None)
            if newest is not None:
                return {tool["name"]: tool for tool in json.loads(newest.read_text(encoding="utf-8"))}
        return {}

    def _arguments(self, current: str, given: Sequence[str]) -> Candidates:
        schema = self._tools().get(given[0], {}).get("inputSchema", {}) if given else {}
        properties = schema.get("properties", {})
        name, separator, _ = current.partition("=")
        if separator and name in properties:
            return [(f"{name}={value}", meaning) for value, meaning in self._values(properties[name])]
        used = {word.partition("=")[0] for word in given[1:]}
        open_ones = [(key, each) for key, each in properties.items() if key not in used or each.get("type") == "array"]
        lone = next((self._values(each) for key, each in open_ones if key in schema.get("required", ())), [])
        return [*lone, *((f"{key}=", each.get("description", "")) for key, each in open_ones)]

    def _values(self, schema: Mapping[str, Any]) -> Candidates:
        if kind := schema.get("x-names"):
            return [(name, ", ".join(hosts)) for name, hosts in self._objects(str(kind)).items()]
        if schema.get("type") == "boolean":
            return [("true", ""), ("false", "")]
        return [(str(value), "") for value in schema.get("enum", ())]


def _read_hosts_file(file: Path, kept: Path) -> dict[str, list[str]]:
    """Read the hosts file, if it is newer than the cache."""
    if kept.exists() and kept.stat().st_mtime_ns >= file.stat().st_mtime_ns:
        return {}
    import tomllib

    hosts = tomllib.loads(file.read_text(encoding="utf-8")).get("hosts", {})
    return {str(name).lower(): [str(tag) for tag in entry.get("tags", [])] for name, entry in hosts.items()}


def command_tree(cache: Path) -> dict[str, Any]:
    """Return every command with options and arguments, cached in a file, because importing them is slow."""
    here = Path(__file__).parents[1]
    stamp = max(file.stat().st_mtime_ns for file in here.rglob("*.py"))
    file = cache / f"commands-{__version__}-{stamp:x}.json"
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    from anvyl_mcp.cli.parser.lazy_commands import describe_commands
    from anvyl_mcp.cli.programs import operator

    described = describe_commands(operator.app)
    with suppress(OSError):
        write_atomically(file, json.dumps(described), durable=False)
    return described


def split_line(line: str) -> list[str]:
    """Split an unfinished command line like a shell; the last word is empty after a space."""
    return split_with_quote(line)[0]


def split_with_quote(line: str) -> tuple[list[str], str]:
    """Like `split_line`, and return the quote that is still open at the end, or an empty text."""
    words, word, quote = [], "", ""
    started = escaped = False
    for letter in line:
        if escaped:
            word, escaped = word + letter, False
        elif letter == "\\" and quote != "'":
            escaped = started = True
        elif quote:
            word, quote = (word, "") if letter == quote else (word + letter, quote)
        elif letter in "\"'":
            quote, started = letter, True
        elif letter.isspace():
            if started or word:
                words.append(word)
            word, started = "", False
        else:
            word += letter
    return [*words, word], quote
