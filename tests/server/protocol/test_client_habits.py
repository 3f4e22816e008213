"""MCP clients as they are: what they send for arguments, and messages that the SDK would drop without an answer.

The reports: claude-code#59227 (lists as JSON text), langflow#8059 and zenrows-mcp#23 (null), cursor#3614 (empty
text), claude-code#45766 (answers of more than 25,000 tokens), OmniRoute#5957 (a forgotten session).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult, TextContent

from anvyl_mcp.app import gateway
from anvyl_mcp.app.catalogue import all_tools
from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.protocol.server import listing
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import ANVYL, ANVYL_MCP, ServingNode, run_program, running_node

TOKENS = 25_000
"""Limit of Claude Code for one answer; a token is about four characters."""
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


@pytest.fixture(scope="module")
def node(engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    with running_node("habits", tmp_path_factory.mktemp("habits"), engine) as started:
        yield started


@pytest.fixture(params=["memory", "http", "stdio", "gateway"])
async def client(request: pytest.FixtureRequest, engine: RealEngine, node: ServingNode) -> AsyncIterator[Client]:
    here = Node(load(), serving=request.param == "memory")
    targets: dict[str, Any] = {
        "memory": lambda: here.server,
        "http": lambda: f"{node.url}/mcp",
        "stdio": lambda: StdioServerParameters(command=ANVYL_MCP, args=["serve", "--stdio"], env=dict(os.environ)),
        "gateway": lambda: gateway.build_gateway(here),
    }
    async with aclosing(here), Client(targets[request.param]()) as opened:
        yield opened


@pytest.fixture
async def memory(engine: RealEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as opened:
        yield opened


def words(result: CallToolResult) -> str:
    return "".join(block.text for block in result.content if isinstance(block, TextContent))


def own(result: CallToolResult) -> dict[str, Any]:
    """The structured result of a host, directly or through a gateway."""
    structured = result.structured_content
    assert isinstance(structured, dict), words(result)
    if "hosts" not in structured:
        return structured
    (entry,) = structured["hosts"].values()
    assert entry["ok"], entry
    fields: dict[str, Any] = entry["result"]
    return fields


def tokens(answer: Any) -> float:
    """Estimate the tokens of an answer: a quarter of the bytes that a client passes on."""
    return len(answer.model_dump_json(by_alias=True, exclude_none=True, exclude={"meta"}).encode()) / 4


async def test_arguments_are_accepted_in_the_forms_clients_send(client: Client, engine: RealEngine) -> None:
    arguments: dict[str, Any] = {
        "image": "busybox",
        "name": "t1",
        "env": '["A=1","B=2"]',
        "labels": None,
        "ports": "",
        "volumes": [],
        "restart": "",
        "memory": None,
        "cpus": 1,
    }
    created = await client.call_tool("create_container", arguments)
    assert not created.is_error, words(created)
    assert {"A=1", "B=2"} <= set(engine.output("t1", "env").split())
    for given in (
        {"name": "t1", "tail": None, "since": None, "grep": ""},
        {"name": "t1", "tail": "5", "since": ""},
        {"name": "t1", "tail": 5.0, "since": 600},
    ):
        answer = await client.call_tool("get_container_logs", given)
        assert not answer.is_error, words(answer)
    listed = await client.call_tool("list_containers", {"all": "", "limit": "", "name": None})
    assert [row["name"] for row in own(listed)["containers"]] == ["t1"]
    assert [row["name"] for row in own(await client.call_tool("list_containers", {"all": "True"}))["containers"]] == [
        "t1"
    ]


async def test_missing_unknown_and_invalid_arguments_get_different_errors(client: Client) -> None:
    for missing in ({}, {"name": None}, {"name": ""}):
        answer = await client.call_tool("get_container_info", missing)
        assert answer.is_error and words(answer).startswith("`get_container_info` needs `name`")
    for dummy in ({"random_string": "dummy"}, {"dummy": None}, {"_": {}, "reason": "to see"}):
        answer = await client.call_tool("get_host_info", dummy)
        assert not answer.is_error and own(answer)["hostname"]
    answer = await client.call_tool("get_container_logs", {"name": "web", "tails": 5})
    assert answer.is_error and "has no argument `tails`" in words(answer) and "`tail`" in words(answer)


async def test_an_unparsable_value_is_refused_and_nothing_is_created(memory: Client, engine: RealEngine) -> None:
    for wrong in ({"env": {"A": "1"}}, {"env": "[1, {}]"}, {"ports": True}, {"name": {"a": 1}}):
        answer = await memory.call_tool("create_container", {"image": "busybox", "name": "t1", **wrong})
        assert answer.is_error and "it should be a valid" in words(answer)
    assert engine.state("t1") is None


async def test_a_value_that_only_starts_like_a_list_stays_one_value(memory: Client, engine: RealEngine) -> None:
    for written in ("GREETING=[hello", "[LIST=1"):
        await memory.call_tool("create_container", {"image": "busybox", "name": "t1", "env": written})
        assert written in engine.output("t1", "env")
        await memory.call_tool("remove_container", {"name": "t1", "force": True})


async def test_hosts_sent_as_json_text_are_several_hosts(fleet: ServingNode) -> None:
    async with aclosing(Node(load())) as here, Client(gateway.build_gateway(here)) as client:
        hosts: list[str | list[str]] = ['["first", "second"]', ["first", "second"]]
        for both in hosts:
            answer = await client.call_tool("get_host_info", {"host": both, "random_string": ""})
            assert answer.structured_content is not None
            assert list(answer.structured_content["hosts"]) == ["first", "second"]
        for written in (None, ""):
            answer = await client.call_tool("get_host_info", {"host": written})
            assert answer.structured_content is not None and len(answer.structured_content["hosts"]) == 2


def test_a_list_on_the_command_line_may_be_json_text_too(engine: RealEngine) -> None:
    done = run_program("call", "create_container", "image=busybox", "name=t1", 'env=["A=1","B=2"]', program=ANVYL)
    assert done.code == 0, done.err
    assert {"A=1", "B=2"} <= set(engine.output("t1", "env").split())


LOUD = 'BEGIN { for (l = ""; length(l) < %d; ) l = l "\\""; for (i = 0; i < %d; i++) print i, l }'


def log_much(engine: RealEngine, lines: int, length: int) -> None:
    """Create a container that logs lines of quotes, which take two bytes each in JSON."""
    engine.api.wait(engine.run("loud", ["awk", LOUD % (length, lines)]))


async def test_no_answer_exceeds_the_limit_of_clients(client: Client, engine: RealEngine) -> None:
    """Text and structured content together stay within the limit."""
    log_much(engine, 150, 3000)
    answer = await client.call_tool("get_container_logs", {"name": "loud"})
    lines = own(answer)["lines"]
    assert tokens(answer) <= TOKENS
    assert 5 < len(lines) < 100 and lines[-1].startswith("149 ") and own(answer)["truncated"]
    assert "left out to keep the answer short; ask for less with " in words(answer) and "`grep`" in words(answer)


async def test_long_output_and_long_listings_are_cut_too(memory: Client, engine: RealEngine) -> None:
    engine.run("web")
    command = "sh -c 'yes | head -c 60000; yes n | head -c 60000 >&2'"
    printed = await memory.call_tool("exec_in_container", {"name": "web", "command": command})
    assert tokens(printed) <= TOKENS
    assert own(printed)["truncated"] and own(printed)["stdout"].startswith("y\ny\n")
    engine.run("wordy", environment={f"KEY{number}": "x" * 900 for number in range(100)})
    info = await memory.call_tool("get_container_info", {"name": "wordy"})
    assert not info.is_error and tokens(info) <= TOKENS
    assert own(info)["state"] == "running" and "left out to keep the answer short" in words(info)


def test_our_own_commands_get_larger_answers_than_a_model(engine: RealEngine) -> None:
    log_much(engine, 60, 800)
    shown = run_program("call", "get_container_logs", "name=loud", "--json", program=ANVYL)
    (entry,) = shown.json["hosts"].values()
    assert len(entry["result"]["lines"]) == 60


async def test_the_complete_listing_fits_the_limit_of_clients() -> None:
    assert tokens(listing(all_tools())) <= TOKENS


def say(*messages: Any, home: Path) -> tuple[list[dict[str, Any]], str]:
    """Send lines to a server on stdio; returns its answers and its stderr."""
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in messages]
    done = subprocess.run(
        [ANVYL_MCP, "serve", "--stdio"],
        input=b"\n".join(lines) + b"\n",
        capture_output=True,
        env={**os.environ, "ANVYL_HOME": str(home)},
        timeout=60,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def ping(number: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": "ping"}


def test_on_stdio_every_request_is_answered_and_rejections_are_logged(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    call = {
        "jsonrpc": "2.0",
        "id": "c",
        "method": "tools/call",
        "params": {"name": "list_hosts", "arguments": {"a": 1}},
    }
    answers, said = say(
        mark + json.dumps(HELLO).encode(),
        [{"jsonrpc": "2.0", "method": "notifications/initialized"}, ping("a"), call, ping(1.5)],
        ping(None),
        ping(True),
        {"id": 7, "method": "ping"},
        {**ping(8), "params": {"x": "\ud83d"}},
        [],
        b"not json",
        b"\xff\xfe",
        b"",
        b'{"jsonrpc":"2.0","id":9,"method":"ping"}\r',
        home=tmp_path,
    )
    results = {answer["id"]: answer["result"] for answer in answers if "result" in answer}
    errors = [(answer["id"], answer["error"]["code"]) for answer in answers if "error" in answer]
    assert results.keys() == {1, "a", "c", 9}
    assert not results["c"].get("isError")
    assert sorted(errors, key=str) == sorted(
        [(None, -32600)] * 4 + [(None, -32700)] * 2 + [(7, -32600), (8, -32600)], key=str
    )
    assert said.count("rejected a message") == len(errors)


@pytest.mark.parametrize("era", ["2025-06-18", "2026-07-28"])
def test_over_http_every_request_is_answered(node: ServingNode, era: str) -> None:
    headers = {"Accept": "application/json, text/event-stream"}
    with httpx.Client(base_url=node.url, headers=headers, trust_env=False) as client:
        if era == "2026-07-28":
            headers = {"MCP-Protocol-Version": era}
        else:
            # A restarted server has lost its sessions, and the client initializes with its old session id.
            greeted = client.post("/mcp", json=HELLO, headers={"Mcp-Session-Id": "of-before"})
            assert greeted.status_code == 200
            session = greeted.headers["mcp-session-id"]
            again = client.post("/mcp", json=HELLO, headers={"Mcp-Session-Id": session})
            assert again.status_code == 200 and again.headers["mcp-session-id"] != session
            headers = {"Mcp-Session-Id": session}
            gone = client.post("/mcp", json=ping(2), headers={"Mcp-Session-Id": "of-before"})
            assert gone.status_code == 404
            marked = client.post(
                "/mcp", content="\ufeff" + json.dumps(ping(3)), headers={**headers, "Content-Type": "application/json"}
            )
            assert '"id":3,"result":{}' in marked.text
        call = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "list_hosts", "arguments": {}}}
        for message in ({**call, "id": 1.5}, {**call, "id": None}, {**call, "id": False}, [ping(1)], 3, {"id": 1}):
            answer = client.post("/mcp", json=message, headers=headers)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == -32600 and answer.json()["error"]["message"]
