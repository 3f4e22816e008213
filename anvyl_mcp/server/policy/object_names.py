"""The grammar of object names: checked before an engine is asked, so that a name is never a path of its API."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.server.tool import Tool

NAMES, MAKES, USES = "x-names", "x-makes", "x-uses"
"""In an argument's schema: the kind of object that it must name, that the call makes, or that the call uses."""

PLAIN_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)
"""Containers, networks, volumes, and ids of anything but images."""
HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
TAG = r"[\w][\w.-]{0,127}"
DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
IMAGE = re.compile(rf"(?:{HOST}/)?{COMPONENT}(?:/{COMPONENT})*(?::{TAG})?(?:@{DIGEST})?", re.ASCII)
"""An image reference: `registry:5000/path/name:tag@digest`, or an id."""
MAX_LENGTH = 512
SHORT_LENGTH = 80

HINTS = {"image": "write it like nginx:1.27 or registry.example:5000/team/app:2"}
PLAIN_HINT = "a name has letters, digits, `_`, `.` and `-`, and begins with a letter or digit"


def is_valid(kind: str, name: str) -> bool:
    """Whether a text can be the name or the id of an object of this kind."""
    grammar = IMAGE if kind == "image" else PLAIN_NAME
    return len(name) <= MAX_LENGTH and grammar.fullmatch(name) is not None


def check_name(kind: str, name: str) -> None:
    """Return when a text can be a name.

    Raises:
        InvalidInput: it cannot.
    """
    if not is_valid(kind, name):
        what = "an image" if kind == "image" else f"a {kind}"
        raise InvalidInput(f"`{shorten(name)}` cannot be the name of {what}", hint=naming_hint(kind))


def naming_hint(kind: str) -> str:
    """How a name of this kind is written, as a hint."""
    return HINTS.get(kind, PLAIN_HINT)


def shorten(name: str) -> str:
    """A name from outside, short and on one line, for a sentence."""
    clean = " ".join(text.clean(name).split())
    return clean if len(clean) <= SHORT_LENGTH else f"{clean[:SHORT_LENGTH]}…"


def named_objects(tool: Tool, arguments: Mapping[str, Any], *markers: str) -> Iterator[tuple[str, str]]:
    """Kind and name of each object that the arguments name under one of these markers, each once."""
    found: dict[tuple[str, str], None] = {}
    for argument, schema in tool.input_schema["properties"].items():
        kind = next((schema[marker] for marker in markers if marker in schema), "")
        found |= dict.fromkeys((str(kind), name) for name in names_in(arguments.get(argument)) if kind)
    yield from found


def names_in(value: Any) -> list[str]:
    """The names in one argument: one, or a list of them."""
    given = value if isinstance(value, list) else [value]
    return [name for name in given if isinstance(name, str) and name]


def check_call(tool: Tool, arguments: Mapping[str, Any]) -> None:
    """Return when every object that a call names can have that name.

    Raises:
        InvalidInput: one cannot.
    """
    for kind, name in named_objects(tool, arguments, NAMES, MAKES, USES):
        check_name(kind, name)
