"""The official MCP conformance suite and the MCP Inspector."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.conformance import npm
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import READY_SECONDS, ServingNode, running_node

ROOT = Path(__file__).parents[3]
TASKS = {
    "tasks-capability-negotiation",
    "tasks-dispatch-and-envelope",
    "tasks-lifecycle",
    "tasks-mrtr-composition",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-request-state-removal",
    "tasks-required-task-error",
    "tasks-wire-fields",
}
"""Scenarios of the tasks extension, which is optional and which the MCP SDK does not implement."""
FAILING: dict[str, set[str]] = {"2025-11-25": set(), "2026-07-28": TASKS}
SCENARIOS = {"2025-11-25": 33, "2026-07-28": 50}
"""Number of scenarios the suite runs, so that a missing one is noticed."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the application with the suite's fixtures and our own tools."""
    npm.programs_folder()
    with application(tmp_path_factory.mktemp("conformance")) as served:
        yield served


@contextmanager
def application(home: Path) -> Iterator[str]:
    environment = {**os.environ, "ANVYL_HOME": str(home), "DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.conformance.app"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], READY_SECONDS)
            yield process.stdout.readline().strip() if ready else ""
        finally:
            process.terminate()


@pytest.mark.parametrize("requirements", FAILING)
def test_the_official_conformance_suite_reports_only_missing_extensions(
    requirements: str, url: str, tmp_path: Path
) -> None:
    """Middleware, routes and server; see the guides of modelcontextprotocol/conformance for the requirement sets."""
    done = npm.run(
        "conformance", "server", "--url", f"{url}/mcp", "--requirements", requirements, "-o", "out", home=tmp_path
    )

    results = {named(file): json.loads(file.read_text(encoding="utf-8")) for file in tmp_path.glob("out/*/checks.json")}
    failing = {name: failures(checks) for name, checks in results.items() if failures(checks)}
    unexpected = {name: why for name, why in failing.items() if name not in FAILING[requirements]}
    assert not unexpected, json.dumps(unexpected, indent=2)
    assert set(failing) == FAILING[requirements]
    assert len(results) == SCENARIOS[requirements], sorted(results)
    assert done.returncode == 0, done.stdout[-2000:]


def named(checks: Path) -> str:
    """The scenario of a result: its folder is `server-<scenario>-<time>`, and the time is 24 characters."""
    return checks.parent.name.removeprefix("server-")[: -len("-2026-11-23T15-01-32-776Z")]


def failures(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [check for check in checks if check["status"] == "FAILURE"]


@pytest.fixture(scope="module")
def node(engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    npm.programs_folder()
    with running_node("inspected", tmp_path_factory.mktemp("inspected"), engine) as started:
        yield started


def inspect(node: ServingNode, home: Path, *arguments: str) -> Any:
    """Return the output of the Inspector's command line for one method."""
    target = (f"{node.url}/mcp", "--transport", "http", "--protocol-era", "auto")
    done = npm.run("mcp-inspector", "--cli", *target, *arguments, home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_the_inspector_finds_our_tools_portable_and_calls_them(
    node: ServingNode, engine: RealEngine, tmp_path: Path
) -> None:
    engine.run("web")

    listed = inspect(node, tmp_path, "--strict", "--method", "tools/list")
    called = inspect(
        node, tmp_path, "--method", "tools/call", "--tool-name", "list_containers", "--tool-arg", "all=true"
    )

    assert {"list_containers", "create_container", "list_hosts"} <= {tool["name"] for tool in listed["tools"]}
    assert [one["name"] for one in called["structuredContent"]["containers"]] == ["web"]
    assert "web" in called["content"][0]["text"]
