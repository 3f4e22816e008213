"""No argument causes an internal error. The seed is fixed, so failures repeat. Parsers: `core/test_parsers.py`."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.types import Tool

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.settings import load
from tests.support.engine.fake_engine import FakeEngine, frames

CALLS_EACH = 12
PIECES = [
    *"0123456789abckmgtKMGTishd:/=[].,-_ '\"\\\n\t\0%{}$`;|&<>é\u202e\U0001f40b\ud800",
    "8080", "80", "65535", "65536", "/tcp", "/udp", "127.0.0.1", "[::1]", "512m", "1h30m", "KEY=value",
    "/data", "/data:/data", ":ro", "٣", "²", "inf", "nan", "1e309", "-1", "9" * 400, "sh -c ", "--", "../", "web",
]  # fmt: skip


def typed(chance: random.Random) -> str:
    return "".join(chance.choice(PIECES) for _ in range(chance.randint(0, 8)))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOME", str(tmp_path))
    with FakeEngine(tmp_path / "e.sock") as started:
        monkeypatch.setenv("DOCKER_HOST", started.url)
        started.add("web", log=frames((1, "one\n"), (2, "two\n")))
        yield started


async def test_no_argument_of_any_tool_is_an_internal_error(fake: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(17)
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
        for tool in (await client.list_tools()).tools:
            for _ in range(CALLS_EACH):
                arguments = {name: value for name, value in _arguments(tool, chance).items() if value is not LEFT_OUT}
                if tool.name in ("execute_command", "exec_in_container"):
                    arguments["command"] = "no-such-program " + _sendable(str(arguments.get("command")))
                    arguments["timeout"] = 1
                result = await client.call_tool(tool.name, arguments)
                code = (result.meta or {}).get(protocol_keys.ERROR, {}).get("code")
                assert code != "internal_error", (tool.name, arguments)
                assert not result.is_error or result.content, (tool.name, arguments)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


LEFT_OUT = object()


def _arguments(tool: Tool, chance: random.Random) -> dict[str, Any]:
    given = {name: _value(schema, chance) for name, schema in tool.input_schema["properties"].items()}
    if chance.random() < 0.1:
        given[_sendable(typed(chance))] = 1
    return given


def _value(schema: dict[str, Any], chance: random.Random) -> Any:
    fitting: dict[str, Callable[[], Any]] = {
        "string": lambda: chance.choice(["web", "busybox", "1h", _sendable(typed(chance))]),
        "integer": lambda: chance.choice([0, 1, 5, 10**6, -1, "3"]),
        "boolean": lambda: chance.choice([True, False, "yes"]),
        "array": lambda: [_sendable(typed(chance)) for _ in range(chance.randint(0, 3))],
    }
    strange = [None, {}, [[]], 1.5, 10**30, "", True, LEFT_OUT]
    return fitting[schema["type"]]() if chance.random() < 0.75 else chance.choice(strange)


def _sendable(words: str) -> str:
    """Without lone surrogates, which JSON-RPC cannot carry as it is UTF-8."""
    return words.replace("\ud800", "")
