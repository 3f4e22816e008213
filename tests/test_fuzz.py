"""Nothing that can be typed brings a parser or a tool down. The seeds are fixed: a failure can be repeated."""

from __future__ import annotations

import logging
import random
import shlex
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.types import Tool

from anvyl_mcp import meta, text
from anvyl_mcp.app import Node
from anvyl_mcp.errors import InvalidInput
from anvyl_mcp.server import commands
from anvyl_mcp.server.run_options import RunOptions
from anvyl_mcp.settings import load
from tests.fake_engine import FakeEngine, frames

ROUNDS = 2_000
CALLS_EACH = 12
PIECES = [
    *"0123456789abckmgtKMGTishd:/=[].,-_ '\"\\\n\t\0%{}$`;|&<>é\u202e\U0001f40b\ud800",
    "8080", "80", "65535", "65536", "/tcp", "/udp", "127.0.0.1", "[::1]", "512m", "1h30m", "KEY=value",
    "/data", "/data:/data", ":ro", "٣", "²", "inf", "nan", "1e309", "-1", "9" * 400, "sh -c ", "--", "../", "web",
]  # fmt: skip
OPTIONS = ("ports", "env", "volumes", "labels", "command", "restart", "network", "memory", "cpus")
LISTS = ("ports", "env", "volumes", "labels")


def typed(chance: random.Random) -> str:
    return "".join(chance.choice(PIECES) for _ in range(chance.randint(0, 8)))


def parsed(**given: Any) -> RunOptions:
    return RunOptions.parse(**{name: given.get(name, [] if name in LISTS else "") for name in OPTIONS})


@pytest.mark.parametrize("seed", range(5))
def test_sizes_and_durations_are_numbers_or_none_whatever_is_typed(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        for parse in (text.parse_size, text.parse_duration):
            found = parse(words := typed(chance))
            assert found is None or found >= 0, (parse.__name__, words)


def test_sizes_and_durations_are_read_back_as_they_are_written() -> None:
    chance = random.Random(7)
    for _ in range(ROUNDS):
        number, unit = chance.randint(0, 10**6), chance.choice("kmgt")
        assert text.parse_size(f"{number}{unit}") == number * 1024 ** (" kmgt".index(unit))
        hours, minutes = chance.randint(0, 99), chance.randint(0, 99)
        assert text.parse_duration(f"{hours}h{minutes}m") == hours * 3600 + minutes * 60
        assert text.parse_duration(f"{hours} hours, {minutes} minutes") == hours * 3600 + minutes * 60


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_a_container_are_read_or_refused_whatever_is_typed(option: str) -> None:
    chance = random.Random(option)
    read = 0
    for _ in range(ROUNDS):
        words = typed(chance)
        try:
            found = parsed(**{option: [words] if option in LISTS else words})
        except InvalidInput as error:
            assert error.message and error.hint, words
        else:
            read += 1
            _plausible(found, words)
    assert read


def _plausible(found: RunOptions, words: str) -> None:
    for bound in found.host.get("port_bindings", {}).values():
        assert all(0 < int(outer) <= 65535 for _, outer in bound), words
    for volume in found.host.get("binds", ()):
        assert volume.split(":")[1].startswith("/"), words
    assert all("=" in entry and not entry.startswith("=") for entry in found.environment), words
    assert 0 <= found.host.get("nano_cpus", 0) <= 1024 * 10**9, words
    assert 0 <= found.host.get("mem_limit", 0) < 2**63, words


def test_ports_are_read_back_as_they_are_written() -> None:
    chance = random.Random(11)
    for _ in range(ROUNDS):
        outer, inner = chance.randint(1, 65535), chance.randint(1, 65535)
        address, protocol = chance.choice(["", "127.0.0.1", "[::1]"]), chance.choice(["tcp", "udp", "sctp"])
        found = parsed(ports=[f"{address}{':' if address else ''}{outer}:{inner}/{protocol}"])
        assert found.host["port_bindings"] == {f"{inner}/{protocol}": [(address.strip("[]"), str(outer))]}


def test_commands_are_split_as_they_were_joined_or_refused() -> None:
    chance = random.Random(13)
    for _ in range(ROUNDS):
        words = [typed(chance) for _ in range(chance.randint(1, 4))]
        try:
            assert commands.split(shlex.join(words)) == words
        except InvalidInput:
            assert any("\0" in word or "\ud800" in word for word in words), words
        try:
            assert commands.split(typed(chance))
        except InvalidInput as error:
            assert error.hint


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
                code = (result.meta or {}).get(meta.ERROR, {}).get("code")
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
    """JSON-RPC is UTF-8: a lone surrogate never arrives."""
    return words.replace("\ud800", "")
