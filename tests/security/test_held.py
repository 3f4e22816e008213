"""Every attack that failed in an audit has tests, and every test named in `held.toml` exists."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent.parent
ROWS: dict[str, Any] = tomllib.loads((Path(__file__).parent / "held.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", ROWS)
def test_every_attack_that_failed_has_tests(row: str) -> None:
    named = ROWS[row]["tests"]

    assert named
    missing = [one for one in named if one.partition("::")[2] not in _tests_in(one.partition("::")[0])]
    assert missing == [], f"`{ROWS[row]['tried']}` lost its tests: name those that hold it now"


def _tests_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
