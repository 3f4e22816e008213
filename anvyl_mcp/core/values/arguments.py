"""Parse tool arguments by the JSON schema of the tool, and correct what clients and models often get wrong.

Every caller of tools uses this: the server of a host, the gateway, the command line and the orchestrator.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Mapping
from typing import Any

from anvyl_mcp.core.errors import InvalidInput, did_you_mean

EMPTY_VALUES = (None, "")
"""Values that clients send for an omitted optional argument."""
NULL_WORDS = frozenset({"null", "none", "undefined"})
"""Words that models send for null, where a number, a boolean or a list is expected."""


def parse_arguments(
    tool: str, schema: Mapping[str, Any], given: Mapping[str, Any], *, added: Collection[str] = ()
) -> dict[str, Any]:
    """Convert the arguments of a call to the types of the schema where possible, and check their names.

    `added` are arguments that the server adds to every tool.

    Raises:
        InvalidInput: an argument is unknown or missing.
    """
    arguments = coerce_arguments(schema, given, added=added)
    check_arguments(tool, schema, arguments)
    return arguments


def coerce_arguments(
    schema: Mapping[str, Any], given: Mapping[str, Any], *, added: Collection[str] = ()
) -> dict[str, Any]:
    """Convert arguments to the types of the schema, and drop empty ones.

    For a tool without arguments, drop unknown ones too: some clients cannot send a call without any.
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
    """Check the names of arguments.

    Raises:
        InvalidInput: an argument is unknown or missing.
    """
    properties = schema.get("properties") or {}
    for name in arguments:
        if name not in properties:
            hint = did_you_mean(name, properties) or "it takes no arguments"
            raise InvalidInput(f"`{tool}` has no argument `{name}`", hint=hint)
    for name in schema.get("required") or ():
        if name not in arguments:
            raise InvalidInput(f"`{tool}` needs `{name}`", hint=f"add {name}=…")


def coerce_value(schema: Any, value: Any) -> Any:
    """Convert a value to the type of its schema; unchanged if that is not possible."""
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
    """Convert JSON text, a single text or a number to a list of texts."""
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
    """Parse JSON, or the Python literals that some models write; None if the text is neither."""
    try:
        return replace_surrogates(json.loads(written))
    except (ValueError, RecursionError):
        pass
    try:
        return replace_surrogates(ast.literal_eval(written))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def replace_surrogates(value: Any) -> Any:
    """Replace lone surrogates in a JSON value, because they cannot be encoded."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _schema_types(schema: Any) -> frozenset[str]:
    if not isinstance(schema, Mapping):
        return frozenset()
    kinds: set[str] = set()
    for branch in (schema, *schema.get("anyOf", ())):
        kind = branch.get("type", []) if isinstance(branch, Mapping) else []
        kinds |= {kind} if isinstance(kind, str) else set(kind)
    return frozenset(kinds)
