"""Parse typed arguments and check them against a tool's schema before sending the call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from anvyl_mcp.core.errors import InvalidInput, did_you_mean
from anvyl_mcp.core.values.arguments import check_arguments, coerce_list
from anvyl_mcp.peers.connection.listing import ToolListing

BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def check(tool: ToolListing, arguments: Mapping[str, Any]) -> None:
    """Reject unknown and missing arguments; the host checks the values.

    Raises:
        InvalidInput: an argument is unknown or missing.
    """
    check_arguments(tool.name, tool.input_schema, arguments)


def parse_words(tool: ToolListing, words: Iterable[str]) -> dict[str, Any]:
    """Convert `key=value` words to the types in the schema. Repeated keys make a list.

    A word without `=` is the value of the next required argument.

    Raises:
        InvalidInput: a word matches no argument, or its value has the wrong type.
    """
    arguments: dict[str, Any] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or name not in tool.arguments:
            open_names = [required for required in tool.required if required not in arguments]
            if (separator and name.isidentifier()) or not open_names:
                hint = did_you_mean(name, tool.arguments) or "it takes no arguments"
                raise InvalidInput(f"`{tool.name}` has no argument `{name}`", hint=hint)
            name, value = open_names[0], word
        kind = tool.arguments[name].get("type")
        if kind == "array":
            arguments.setdefault(name, []).extend(coerce_list(value))
        elif name in arguments:
            raise InvalidInput(f"`{name}` is given twice", hint="give it once")
        else:
            arguments[name] = _typed(name, value, kind)
    check(tool, arguments)
    return arguments


def _typed(name: str, value: str, kind: object) -> Any:
    if kind == "boolean":
        if value.lower() not in BOOLEANS:
            raise InvalidInput(f"`{name}` is `{value}`, which is neither yes nor no", hint=f"write {name}=true")
        return BOOLEANS[value.lower()]
    if kind == "integer":
        try:
            return int(value)
        except ValueError as error:
            raise InvalidInput(
                f"`{name}` is `{value}`, which is not a whole number", hint=f"write {name}=10"
            ) from error
    return value
