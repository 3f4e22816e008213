"""The syntax of object names, checked before every engine request so that a name cannot become an API path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import InvalidInput

if TYPE_CHECKING:  # an order at the command line asks for reasons, and waits for no schema library
    from anvyl_mcp.server.tool import Tool

NAMES, MAKES, USES = "x-names", "x-makes", "x-uses"
"""Schema keys of an argument; their value is the kind of object that it names, creates or uses."""

PLAIN_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)
"""Names of containers, networks and volumes, and ids of anything but images."""
HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
TAG = r"[\w][\w.-]{0,127}"
DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
IMAGE = re.compile(rf"(?:{HOST}/)?{COMPONENT}(?:/{COMPONENT})*(?::{TAG})?(?:@{DIGEST})?", re.ASCII)
"""An image reference: `registry:5000/path/name:tag@digest`, or an id."""
STACK = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)
"""The name of a Compose project."""
REPLACING = ".anvyl-"
"""What follows the name of a container in those that it has, and that its helper has, while an update replaces it."""
MAX_LENGTH = 512
SHORT_LENGTH = 80

GRAMMARS = {"image": IMAGE, "stack": STACK}
"""Grammar of the names of each kind; `PLAIN_NAME` for all others."""
HINTS = {
    "image": "write it like nginx:1.27 or registry.example:5000/team/app:2",
    "stack": "a stack's name has lower-case letters, digits, `_` and `-`, and begins with a letter or digit",
}
PLAIN_HINT = "a name has letters, digits, `_`, `.` and `-`, and begins with a letter or digit"


def is_valid(kind: str, name: str) -> bool:
    """Whether a text can be the name or id of an object of this kind."""
    return len(name) <= MAX_LENGTH and GRAMMARS.get(kind, PLAIN_NAME).fullmatch(name) is not None


def check_name(kind: str, name: str) -> None:
    """Check the syntax of a name.

    Raises:
        InvalidInput: it is invalid.
    """
    if not is_valid(kind, name):
        what = "an image" if kind == "image" else f"a {kind}"
        raise InvalidInput(f"`{shorten(name)}` cannot be the name of {what}", hint=naming_hint(kind))


def naming_hint(kind: str) -> str:
    """A hint on how to write a name of this kind."""
    return HINTS.get(kind, PLAIN_HINT)


def shorten(name: str) -> str:
    """Shorten a name from a caller to one line, for a message."""
    clean = " ".join(text.clean(name).split())
    return clean if len(clean) <= SHORT_LENGTH else f"{clean[:SHORT_LENGTH]}…"


def named_objects(tool: Tool, arguments: Mapping[str, Any], *markers: str) -> Iterator[tuple[str, str]]:
    """Kind and name of each object in the arguments that have one of these schema keys, without duplicates."""
    found: dict[tuple[str, str], None] = {}
    for argument, schema in tool.input_schema["properties"].items():
        kind = next((schema[marker] for marker in markers if marker in schema), "")
        found |= dict.fromkeys((str(kind), name) for name in names_in(arguments.get(argument)) if kind)
    yield from found


def names_in(value: Any) -> list[str]:
    """The names in one argument: a text or a list of texts."""
    given = value if isinstance(value, list) else [value]
    return [name for name in given if isinstance(name, str) and name]


def check_call(tool: Tool, arguments: Mapping[str, Any]) -> None:
    """Check the syntax of every object name in a call.

    Raises:
        InvalidInput: one is invalid.
    """
    for kind, name in named_objects(tool, arguments, NAMES, MAKES, USES):
        check_name(kind, name)


def lasting_name(name: str) -> str:
    """Name of a container without what an update appends to it meanwhile."""
    return name.partition(REPLACING)[0]
