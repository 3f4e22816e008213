"""Snapshots of the listing of every tool; `ANVYL_UPDATE_DOCS=1 scripts/test` rewrites them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from anvyl_mcp.app.fleet_tools import fleet_tools
from anvyl_mcp.core import text
from anvyl_mcp.server.protocol.server import listing
from anvyl_mcp.server.toolsets import load_tools
from tests.conftest import OUTSIDE

FOLDER = Path(__file__).parents[1] / "data" / "tools"
LISTED = {
    tool.name: tool.model_dump(mode="json", by_alias=True, exclude_none=True)
    for tool in listing([*load_tools(), *fleet_tools(None)]).tools
}

REQUIRED: dict[str, dict[str, list[str]]] = json.loads(
    (FOLDER.parent / "first_required_fields.json").read_text(encoding="utf-8")
)
"""Required fields in each object of a result in the first version."""


@pytest.mark.parametrize("name", LISTED)
def test_a_tools_listing_matches_its_snapshot(name: str) -> None:
    """A difference is either a mistake or intended; if intended, commit the new snapshot."""
    file = FOLDER / f"{name}.json"
    fresh = json.dumps(LISTED[name], indent=2, ensure_ascii=False) + "\n"
    if OUTSIDE.get("ANVYL_UPDATE_DOCS"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(fresh, encoding="utf-8")

    assert file.read_text(encoding="utf-8") == fresh


def test_every_snapshot_belongs_to_a_tool() -> None:
    """Clients, models and scripts depend on the names of tools."""
    assert {file.stem for file in FOLDER.glob("*.json")} == set(LISTED)


@pytest.mark.parametrize("name", REQUIRED)
def test_results_of_a_first_version_host_match_the_schema(name: str) -> None:
    """A new required field would make results of older hosts invalid."""
    now = _required(text.resolve_schema(LISTED[name]["outputSchema"]))

    added = {path: set(fields) - set(REQUIRED[name].get(path, fields)) for path, fields in now.items()}
    assert not any(added.values()), added


def _required(schema: Mapping[str, Any], path: str = "") -> dict[str, list[str]]:
    """Required fields of each object in a result, by path."""
    found: dict[str, list[str]] = {path: schema.get("required", [])} if "properties" in schema else {}
    for name, field in schema.get("properties", {}).items():
        found |= _required(field, f"{path}.{name}" if path else name)
    return found | _required(schema["items"], f"{path}[]") if "items" in schema else found
