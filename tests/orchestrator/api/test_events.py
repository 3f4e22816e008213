"""`/agent/process/stream`: events in order, and cancellation when the client disconnects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import httpx

from tests.support.hosts.http_node import FakePeer, HttpNode
from tests.support.hosts.nodes import NO_MODEL, running_node

NOTHING = "unix:///nonexistent/docker.sock"


async def events(http_node: HttpNode, caller: str, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    """All events of one question."""
    answer = await http_node.request(caller, "/agent/process/stream", body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store" and "content-length" not in answer.headers
    found = []
    for block in answer.text.split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((lines["event"], json.loads(lines["data"])))
    return found


async def test_a_question_is_streamed_call_by_call(http_node: HttpNode) -> None:
    stream = await events(http_node, "read", query="host info")

    assert [name for name, _ in stream] == ["call", "result", "text", "done"]
    (_, call), (_, result), (_, text), (_, done) = stream
    assert call["tool"] == result["tool"] == "get_host_info" and result["ok"]
    assert done["response"] == text["text"] and done["calls"] == [result]


async def test_a_change_is_streamed_as_an_approval(http_node: HttpNode, tmp_path: Path) -> None:
    stream = await events(http_node, "exec", query=f"run command touch {tmp_path / 'done'}")

    assert [name for name, _ in stream] == ["text", "approval", "done"]
    approval = stream[1][1]
    assert approval == stream[2][1]["approval"]
    assert (await http_node.request("exec", f"/agent/approvals/{approval['id']}", {"approve": True})).status_code == 200
    assert (tmp_path / "done").exists()


async def test_an_error_is_the_last_event(http_node: HttpNode) -> None:
    stream = await events(http_node, "read", query="make me a sandwich")

    assert [(name, data["error"]["code"]) for name, data in stream] == [("error", "not_understood")]
    assert stream[0][1]["error"]["hint"]


async def test_an_invalid_body_starts_no_stream(http_node: HttpNode) -> None:
    answer = await http_node.request("read", "/agent/process/stream", {"query": 5})

    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")


async def test_a_disconnect_cancels_the_work_of_a_stream(fake_peer: FakePeer, tmp_path: Path) -> None:
    """The cancellation reaches the remote host, which never answers in this test."""
    home = tmp_path / "node"
    home.mkdir()
    (home / "hosts.toml").write_text(f'[hosts.slow]\nurl = "http://127.0.0.1:{fake_peer.port}"\n', encoding="utf-8")
    with running_node("alpha", home, ANVYL_LMSTUDIO_URL=NO_MODEL, DOCKER_HOST=NOTHING) as node, anyio.fail_after(90):
        async with (
            httpx.AsyncClient(base_url=node.url, timeout=80) as client,
            client.stream("POST", "/agent/process/stream", json={"query": "host info on slow"}) as answer,
        ):
            lines = answer.aiter_lines()
            assert await anext(lines) == "event: call"
            await fake_peer.requested.wait()
        await fake_peer.disconnected.wait()
