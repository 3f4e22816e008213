"""Check a peer's result against the tool's output schema, so that malformed results do not crash their readers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def matches_schema(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a JSON value has a schema's types and required fields; unknown fields are ignored."""
    if "anyOf" in schema:
        return any(matches_schema(value, branch) for branch in schema["anyOf"])
    kind = schema.get("type")
    if kind is None:
        return True
    if isinstance(kind, list):
        return any(matches_schema(value, {**schema, "type": one}) for one in kind)
    if not isinstance(value, KINDS.get(kind, (object,))) or (kind != "boolean" and isinstance(value, bool)):
        return False
    if isinstance(value, list):
        return all(matches_schema(entry, schema.get("items", {})) for entry in value)
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        return all(name in value for name in schema.get("required", ())) and all(
            matches_schema(entry, fields[name]) for name, entry in value.items() if name in fields
        )
    return True
