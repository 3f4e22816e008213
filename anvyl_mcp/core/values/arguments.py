"""Tool arguments as clients and models really send them, read by the tool's JSON schema.

Every way into a tool reads its arguments here: a host's server, the gateway, the command line and the orchestrator.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Mapping
from typing import Any

from anvyl_mcp.core.errors import InvalidInput, did_you_mean

EMPTY_VALUES = (None, "")
"""What clients send for an optional argument that they leave out."""
NULL_WORDS = frozenset({"null", "none", "undefined"})
"""How models spell it where a number, a boolean or a list is wanted."""


def parse_arguments(
    tool: str, schema: Mapping[str, Any], given: Mapping[str, Any], *, added: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments of a call, each of the type that its schema asks for if it can be read as one.

    `added` are the arguments that every tool of this server has beside its own.

    Raises:
        InvalidInput: one is unknown or missing.
    """
    arguments = coerce_arguments(schema, given, added=added)
    check_arguments(tool, schema, arguments)
    return arguments


def coerce_arguments(
    schema: Mapping[str, Any], given: Mapping[str, Any], *, added: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments that were given, without those left empty and the dummies of a tool that takes none.

    Some clients cannot call a tool without arguments, and make one up.
    """
    properties = schema.get("properties") or {}
    takes_none = not properties.keys() - set(added)
    values = {
        name: coerce_value(properties.get(name), value)
        for name, value in given.items()
        if name in properties or not takes_none
    }
    return {name: value for name, value in values.items() if value not in EMPTY_VALUES}


def check_arguments(tool: str, schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Refuse unknown and missing arguments.

    Raises:
        InvalidInput: one is unknown, or one is missing.
    """
    properties = schema.get("properties") or {}
    for name in arguments:
        if name not in properties:
            hint = did_you_mean(name, properties) or "it takes no arguments"
            raise InvalidInput(f"`{tool}` has no argument `{name}`", hint=hint)
    for name in schema.get("required") or ():
        if name not in arguments:
            raise InvalidInput(f"`{tool}` needs `{name}`", hint=f"give {name}=…")


def coerce_value(schema: Any, value: Any) -> Any:
    """A value in the type of its schema, when it was written in another; unchanged when it cannot be read as that."""
    kinds = _schema_types(schema)
    if "array" in kinds and value not in EMPTY_VALUES:
        return coerce_list(value)
    if "string" in kinds:
        return str(value) if type(value) in (int, float) and not kinds & {"integer", "number"} else value
    if not kinds or not isinstance(value, str):
        return value
    if value.strip().lower() in NULL_WORDS:
        return None
    parsed = parse_literal(value.strip())
    return value if parsed is None else parsed


def coerce_list(value: Any) -> Any:
    """A list of texts, also when it was written as JSON in one text, or is one text or number alone."""
    if isinstance(value, str):
        if value.strip().lower() in NULL_WORDS:
            return []
        parsed = parse_literal(value.strip()) if value.lstrip().startswith("[") else None
        value = parsed if isinstance(parsed, list) else [value]
    elif type(value) in (int, float):
        value = [value]
    if not isinstance(value, list):
        return value
    return [str(entry) if type(entry) in (int, float) else entry for entry in value if entry not in EMPTY_VALUES]


def parse_literal(written: str) -> Any:
    """The value of JSON text, or of the Python spelling of it that some models write; None when it is neither."""
    try:
        return replace_surrogates(json.loads(written))
    except (ValueError, RecursionError):
        pass
    try:
        return replace_surrogates(ast.literal_eval(written))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def replace_surrogates(value: Any) -> Any:
    """A JSON value without halves of characters, which could be neither shown nor sent on."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _schema_types(schema: Any) -> frozenset[str]:
    if not isinstance(schema, Mapping):
        return frozenset()
    kinds: set[str] = set()
    for branch in (schema, *schema.get("anyOf", ())):
        kind = branch.get("type", []) if isinstance(branch, Mapping) else []
        kinds |= {kind} if isinstance(kind, str) else set(kind)
    return frozenset(kinds)
