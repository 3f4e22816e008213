"""The example configuration for desktop assistants works when its command is run unchanged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from tests.support.hosts.nodes import SCRIPTS, write_hosts_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "claude_desktop_config.json"


def entry() -> dict[str, Any]:
    document: dict[str, dict[str, dict[str, Any]]] = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    [server] = document["mcpServers"].values()
    return server


async def test_the_example_for_claude_desktop_starts_a_server_of_the_whole_fleet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANVYL_NAME", "here")
    write_hosts_file("down", "http://127.0.0.1:1")
    server = entry()
    environment = {**os.environ, **server.get("env", {}), "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    parameters = StdioServerParameters(command=server["command"], args=server["args"], env=environment)

    with anyio.fail_after(120):
        async with Client(parameters) as client:
            tools = {tool.name: tool.input_schema["properties"] for tool in (await client.list_tools()).tools}
            done = await client.call_tool("get_host_resources", {})
            hosts = await client.call_tool("list_hosts", {})

    assert {"list_containers", "stop_container", "get_container_logs", "list_hosts"} <= tools.keys()
    assert "host" in tools["stop_container"]
    assert done.is_error is False
    assert hosts.structured_content is not None
    assert [row["name"] for row in hosts.structured_content["hosts"]] == ["here", "down"]


def test_the_example_contains_only_supported_keys() -> None:
    server = entry()

    assert set(server) <= {"command", "args", "env"}
    assert all(isinstance(word, str) for word in [server["command"], *server["args"]])
    assert "/" not in server["command"], "the example contains a machine-specific path"
