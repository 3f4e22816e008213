"""Complete simulated results according to the tools' schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EMPTY: dict[str, Any] = {"string": "", "integer": 0, "number": 0, "boolean": False}


def filled(value: Any, schema: Mapping[str, Any]) -> Any:
    """Add missing required fields, with empty values."""
    if isinstance(value, list):
        return [filled(entry, schema.get("items", {})) for entry in value]
    if not isinstance(value, dict):
        return value
    fields = schema.get("properties", {})
    missing = {name: _empty(fields.get(name, {})) for name in schema.get("required", ()) if name not in value}
    return {**missing, **{name: filled(entry, fields.get(name, {})) for name, entry in value.items()}}


def _empty(schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type", "")
    if kind == "array":
        return []
    return filled({}, schema) if kind == "object" else EMPTY.get(kind)
