"""What could come next on a command line: from files only, on little of the standard library, without asking a host."""

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
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.core.paths import config_and_state_dirs

Candidates = list[tuple[str, str]]
"""Words with what they mean."""

PLACE_RULES = ("most-memory", "least-loaded")
SHELLS = ("bash", "zsh", "fish")
UNQUOTED = "_./:@=,+%-"
"""What bash takes as it is, besides letters and digits."""


def print_candidates(words: Sequence[str]) -> None:
    """Print the words that fit: for `bash LINE POINT BREAKS`, or `zsh|fish WORD… CURRENT`."""
    shell, *rest = words or [""]
    if shell == "bash" and len(rest) == 3:
        line, point, breaks = rest
        whole, quote = split_with_quote(line[: int(point)] if point.isdecimal() else line)
        typed = whole[1:]
        current = typed[-1] if typed else ""
        # The shell replaces only what follows the last of its word breaks.
        kept = max((current.rfind(mark) for mark in breaks if not mark.isspace()), default=-1) + 1
        _print(bash_quote(value[kept:], quote) for value, _ in complete(typed) if quote != '"' or "!" not in value)
    elif shell in SHELLS:
        _print(f"{value}\t{meaning}" if meaning else value for value, meaning in complete(rest))


def bash_quote(value: str, quote: str = "") -> str:
    """`value` so that bash takes it for a word and nothing else, also inside of quotes that are open already."""
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
    """The words that could stand in the place of the last one, which may be empty."""
    config, state = config_and_state_dirs(os.environ)
    names = _Names(config, state / "cache")
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
    """The command that the words lead to, its arguments so far, and what kind of value an option waits for."""
    given: list[str] = []
    option, ours = "", True
    for word in words:
        if option:
            option = ""
        elif word == "--":
            ours = False
        elif ours and word.startswith("-"):
            option = "" if "=" in word else node["options"].get(word, ["", ""])[0]
        elif node["commands"]:
            node = node["commands"].get(word, _NO_COMMAND)
        else:
            given.append(word)
    return node, given, option


_NO_COMMAND: Mapping[str, Any] = {"options": {}, "arguments": [], "commands": {}}
"""A command that there is not."""


def _matching(found: Candidates, current: str) -> Candidates:
    return [(value, meaning) for value, meaning in found if value.startswith(current)]


def _printable(found: Candidates) -> Candidates:
    """Those that are a word on one line and no option: hosts say what their containers are called."""
    return [(value, meaning) for value, meaning in found if value.isprintable() and not value.startswith("-")]


class _Names:
    """Names by kind, from what commands saw last."""

    def __init__(self, config: Path, cache: Path) -> None:
        self._cache = cache
        self._kept = name_cache.read(cache / name_cache.FILE)
        self._hosts: dict[str, list[str]] = dict(self._kept.get("hosts", {}))
        with suppress(OSError, ValueError, AttributeError, TypeError):
            self._hosts |= _read_hosts_file(config / "hosts.toml", cache / name_cache.FILE)

    def of(self, kind: str, current: str, given: Sequence[str]) -> Candidates:
        """Everything of one kind; `given` are the arguments before."""
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
        for host, names in self._kept.get("names", {}).get(kind, {}).items():
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
        """The newest listing that was kept."""
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
    """The hosts that were added by hand since anything was kept."""
    if kept.exists() and kept.stat().st_mtime_ns >= file.stat().st_mtime_ns:
        return {}
    import tomllib

    hosts = tomllib.loads(file.read_text(encoding="utf-8")).get("hosts", {})
    return {str(name).lower(): [str(tag) for tag in entry.get("tags", [])] for name, entry in hosts.items()}


def command_tree(cache: Path) -> dict[str, Any]:
    """Every command with its options and arguments; kept in a file, because reading them from typer takes too long."""
    here = Path(__file__).parents[1]
    stamp = max(file.stat().st_mtime_ns for file in here.rglob("*.py"))
    file = cache / f"commands-{__version__}-{stamp:x}.json"
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    from anvyl_mcp.cli.parser.lazy_commands import describe_commands
    from anvyl_mcp.cli.programs import operator

    made = describe_commands(operator.app)
    with suppress(OSError):
        write_atomically(file, json.dumps(made), durable=False)
    return made


def split_line(line: str) -> list[str]:
    """The words of an unfinished command line as a shell reads them; the last one is empty after a space."""
    return split_with_quote(line)[0]


def split_with_quote(line: str) -> tuple[list[str], str]:
    """The same, and the quote that is still open at its end, if one is."""
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
