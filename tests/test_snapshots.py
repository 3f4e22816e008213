"""What others depend on, as files: every tool as it is listed. `ANVYL_UPDATE_DOCS=1 scripts/test` rewrites them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anvyl_mcp.fleet_tools import fleet_tools
from anvyl_mcp.server.mcp_server import listing
from anvyl_mcp.server.tool import load_tools
from tests.conftest import OUTSIDE

FOLDER = Path(__file__).parent / "data" / "tools"
LISTED = {
    tool.name: tool.model_dump(mode="json", by_alias=True, exclude_none=True)
    for tool in listing([*load_tools(), *fleet_tools(None)]).tools
}


@pytest.mark.parametrize("name", LISTED)
def test_a_tool_is_listed_as_it_was_agreed(name: str) -> None:
    """A difference is either a mistake or a decision; a decision is a file in the same commit."""
    file = FOLDER / f"{name}.json"
    fresh = json.dumps(LISTED[name], indent=2, ensure_ascii=False) + "\n"
    if OUTSIDE.get("ANVYL_UPDATE_DOCS"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(fresh, encoding="utf-8")

    assert file.read_text(encoding="utf-8") == fresh


def test_no_tool_went_away_unnoticed() -> None:
    """Names last for ever: clients, models and scripts hold on to them."""
    assert {file.stem for file in FOLDER.glob("*.json")} == set(LISTED)
