"""Tasks: the question, and the required and forbidden results."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import InvalidInput, did_you_mean
from anvyl_mcp.peers.connection.listing import ToolListing

Steps = Literal["single", "multi"]
ASIDE = "heldout"
"""Held-out tasks, not used for tuning; run only if named."""


@dataclass(frozen=True)
class Want:
    """An expected call: one of several tools, its hosts and the relevant arguments."""

    tools: frozenset[str]
    hosts: frozenset[str] = frozenset()
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Want:
        """Read from a task file."""
        return cls(frozenset(entry["tool"].split("|")), frozenset(entry.get("hosts", ())), entry.get("arguments", {}))

    def is_read(self, tool: str, arguments: Mapping[str, Any]) -> bool:
        """Whether a reading call matches; additional arguments are allowed."""
        return tool in self.tools and all(same(arguments.get(name), value) for name, value in self.arguments.items())

    def is_change(self, listing: ToolListing, arguments: Mapping[str, Any]) -> bool:
        """Whether a change matches exactly; additional arguments must equal the tool's defaults."""
        beyond = {name: value for name, value in arguments.items() if name not in self.arguments}
        # What narrows a change down to what the person was shown makes no other change of it.
        harmless = all(
            same(value, listing.arguments[name].get("default")) or "x-shown" in listing.arguments[name]
            for name, value in beyond.items()
        )
        return self.is_read(listing.name, arguments) and harmless

    def __str__(self) -> str:
        """Readable form."""
        words = " ".join(f"{name}={text.format_value(value)}" for name, value in self.arguments.items())
        return f"{'|'.join(sorted(self.tools))} {words}".strip() + (
            f" on {', '.join(sorted(self.hosts))}" * bool(self.hosts)
        )


@dataclass(frozen=True)
class Task:
    """A question with its checks.

    `calls` must have been made, `changes` too and nothing beyond them but what is `allowed`; `answer` are patterns that
    the sentences must hold, `shown` those that the sentences or the results must hold, `unsaid` those that must not be
    said. `world` changes the fleet first.
    """

    ask: str
    kind: str
    steps: Steps
    calls: tuple[Want, ...] = ()
    changes: tuple[Want, ...] = ()
    allowed: tuple[Want, ...] = ()
    answer: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ()
    world: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


def same(given: Any, wanted: Any) -> bool:
    """Whether two values are equivalent: `20` and `"20"`, `30m` and `30 minutes`, `NGINX` and `nginx`."""
    if isinstance(wanted, list):
        return isinstance(given, list) and len(given) == len(wanted) and all(map(same, given, wanted))
    if isinstance(wanted, bool) or given is None:
        return given is wanted
    left, right = str(given).strip().lower(), str(wanted).strip().lower()
    if left == right:
        return True
    for parse in (text.parse_duration, text.parse_size):
        if (known := parse(right)) is not None and parse(left) == known:
            return True
    return False


def load(chosen: str = "") -> list[Task]:
    """Select tasks: all but the held-out ones, or by comma-separated names: `act`, `heldout`, `multi`, a file, `all`.

    Raises:
        InvalidInput: a name chooses nothing, or a file is none.
    """
    known = _installed()
    words = [word.strip() for word in chosen.split(",") if word.strip()]
    if not words:
        return [task for task in known if task.source != ASIDE]
    tasks: list[Task] = []
    for word in words:
        tasks += [task for task in _chosen(word, known) if task not in tasks]
    return tasks


def _chosen(word: str, known: list[Task]) -> list[Task]:
    if word.endswith(".toml"):
        return read(Path(word))
    if word == "all":
        return known
    found = [
        task for task in known if word == task.source or (task.source != ASIDE and word in (task.kind, task.steps))
    ]
    if not found:
        names = {name for task in known for name in (task.kind, task.steps, task.source)}
        raise InvalidInput(
            f"there are no tasks `{word}`", hint=did_you_mean(word, {*names, "all"}) + "; or a .toml file"
        )
    return found


def _installed() -> list[Task]:
    folder = resources.files(__package__).joinpath("tasks")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return [task for file in files for task in _parsed(file.read_text(encoding="utf-8"), file.name)]


def read(path: Path) -> list[Task]:
    """Read tasks from a user's file.

    Raises:
        InvalidInput: it cannot be used.
    """
    try:
        return _parsed(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", hint="name a file with tasks") from error


def _parsed(content: str, where: str) -> list[Task]:
    try:
        entries = tomllib.loads(content).get("task", [])
        source = Path(where).name.removesuffix(".toml")
        return [_task(entry, source) for entry in entries]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, re.error) as error:
        raise InvalidInput(
            f"{where} holds no tasks that can be used: {error}", hint="see anvyl_mcp/evaluation/tasks for examples"
        ) from error


def _task(entry: Mapping[str, Any], source: str) -> Task:
    fields = dict(entry)
    for name in ("calls", "changes", "allowed"):
        fields[name] = _wants(fields.get(name, ()))
    for name in ("answer", "shown", "unsaid"):
        fields[name] = tuple(fields.get(name, ()))
        for pattern in fields[name]:
            re.compile(pattern)
    return Task(**{"kind": source.replace("-", " "), "steps": "single", "source": source, **fields})


def _wants(entries: Iterable[Mapping[str, Any]]) -> tuple[Want, ...]:
    return tuple(Want.read(entry) for entry in entries)
