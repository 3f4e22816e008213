"""The documentation as a site: without dead links, loading nothing from elsewhere; and what it quotes exists."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest

from tests.project.test_docs import ROOT

LITERAL = re.compile(r'"([^"]+)"')
ELSEWHERE = frozenset(
    {"permission denied", "does not support tools", "requires --jinja", "no Docker engine", "no answer within 3 s"}
    | {"both … have a container", "all have a container", "runs 2 of 5", "by the rules"}
)
"""Quoted in the page on problems, and said by the engine or a model server, or put together by us."""


def test_the_site_builds_without_a_dead_link_and_loads_nothing_from_elsewhere() -> None:
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("the documentation is built with zensical: uv sync --group docs")
    done = subprocess.run(
        [sys.executable, "scripts/build_docs.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_messages_quoted_under_troubleshooting_are_messages_of_the_code() -> None:
    code = " ".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "anvyl_mcp").rglob("*.py")))
    code = re.sub(r'"\s+f?"', "", code)
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    first_cells = [row.split("|")[1] for row in page.splitlines() if row.startswith("|")]
    quoted = {words for cell in first_cells for words in LITERAL.findall(cell)} - ELSEWHERE
    missing = {
        words for words in quoted for part in words.split("…") if part.strip() and part.strip().strip("`") not in code
    }

    assert len(quoted) > 20
    assert missing == set()


def test_the_readme_fits_on_two_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110


def test_hooks_and_scripts_that_the_contributing_page_names_exist() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for script in re.findall(r"scripts/\w+", hooks + page):
        assert (ROOT / script).stat().st_mode & 0o100, script
    for file in ("ISSUE_TEMPLATE/problem.yml", "ISSUE_TEMPLATE/wish.yml", "PULL_REQUEST_TEMPLATE.md"):
        assert (ROOT / ".github" / file).is_file()
