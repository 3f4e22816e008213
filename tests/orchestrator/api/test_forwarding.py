"""Forwarding questions between agents: rights, timeouts, paths, and the fallback to tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp_types import CallToolResult

from anvyl_mcp.peers import agents
from anvyl_mcp.peers.hops import Hop, append_hop, installation_id, parse
from tests.support.hosts.http_node import FakePeer, HttpNode, response
from tests.support.hosts.nodes import NO_MODEL, ServingNode, running_node
from tests.support.model_server import ModelServer, text, tool_call
from tests.support.toy_server import ToyTools, serve_toy


@pytest.fixture(scope="module")
def beta(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    """A real node without a model, an engine or peers."""
    with running_node(
        "beta", tmp_path_factory.mktemp("beta"), ANVYL_LMSTUDIO_URL=NO_MODEL, DOCKER_HOST=NOTHING
    ) as node:
        yield node


@pytest.fixture(scope="module")
def gamma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    """Another such node."""
    with running_node(
        "gamma", tmp_path_factory.mktemp("gamma"), ANVYL_LMSTUDIO_URL=NO_MODEL, DOCKER_HOST=NOTHING
    ) as node:
        yield node


NOTHING = "unix:///nonexistent/docker.sock"


@pytest.fixture(autouse=True)
def local_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANVYL_NAME", "alpha")
    monkeypatch.setenv("ANVYL_DRIVE", "tools")


def write_hosts(home: Path, **hosts: str | ServingNode) -> None:
    """Write the hosts of the node in this process: by URL, or with a token that has all rights."""
    file, text = home / "hosts.toml", ""
    for name, host in hosts.items():
        url, token = (host, "") if isinstance(host, str) else (host.url, host.token)
        text += f'[hosts.{name}]\nurl = "{url}"\ntoken = "{token}"\n'
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)


async def query(
    http_node: HttpNode, host: str, question: str = "host info", caller: str = "read", **more: Any
) -> httpx.Response:
    return await http_node.request(caller, "/agent/remote-query", {"host_id": host, "query": question, **more})


def status_and_code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_a_remote_agent_answers_about_its_own_host(
    http_node: HttpNode, beta: ServingNode, tmp_path: Path
) -> None:
    write_hosts(tmp_path, nas=beta.url)

    answer = await query(http_node, "NAS")

    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["host_id"], body["via"], body["mode"], body["hosts"]) == ("nas", "agent", "rules", {"beta": "ok"})
    assert [(call["tool"], call["host"]) for call in body["calls"]] == [("get_host_info", "beta")]


async def test_a_host_can_query_itself_by_name(http_node: HttpNode, beta: ServingNode, tmp_path: Path) -> None:
    write_hosts(tmp_path, nas=beta.url)

    assert (await query(http_node, "alpha")).json()["hosts"] == {"alpha": "ok"}


async def test_an_unknown_host_is_a_404(http_node: HttpNode) -> None:
    assert status_and_code(await query(http_node, "nowhere")) == (404, "unknown_host")


async def test_a_host_that_is_down_is_a_502(http_node: HttpNode, tmp_path: Path) -> None:
    write_hosts(tmp_path, nas="http://127.0.0.1:1")

    answer = await query(http_node, "nas")

    assert status_and_code(answer) == (502, "refused")
    assert "nas" in answer.json()["error"]["message"]


async def test_nothing_is_sent_to_an_unpaired_host(http_node: HttpNode, tmp_path: Path) -> None:
    write_hosts(tmp_path, far="http://192.168.1.100:4200")

    answer = await query(http_node, "far")

    assert status_and_code(answer) == (502, "unpaired")
    assert "anvyl-mcp invite" in answer.json()["error"]["hint"]


async def test_a_slow_host_times_out_and_its_work_is_cancelled(
    http_node: HttpNode, fake_peer: FakePeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "SECONDS", 0.2)
    write_hosts(tmp_path, slow=f"http://127.0.0.1:{fake_peer.port}")

    assert status_and_code(await query(http_node, "slow")) == (504, "timeout")

    with anyio.fail_after(5):
        await fake_peer.disconnected.wait()


async def test_a_client_disconnect_cancels_the_remote_work(fake_peer: FakePeer, tmp_path: Path) -> None:
    home = tmp_path / "node"
    home.mkdir()
    write_hosts(home, slow=f"http://127.0.0.1:{fake_peer.port}")
    with running_node("alpha", home, ANVYL_LMSTUDIO_URL=NO_MODEL, DOCKER_HOST=NOTHING) as node, anyio.fail_after(60):
        async with httpx.AsyncClient(base_url=node.url, timeout=60) as client, anyio.create_task_group() as group:
            group.start_soon(lambda: client.post("/agent/remote-query", json={"host_id": "slow", "query": "host info"}))
            await fake_peer.requested.wait()
            group.cancel_scope.cancel()
        await fake_peer.disconnected.wait()


GARBAGE = {
    "not JSON": response("200 OK", b"<html>hello</html>", "text/html"),
    "a list": response("200 OK", b"[]"),
    "an answer without text": response("200 OK", b"{}"),
    "text of another type": response("200 OK", b'{"response": 5}'),
    "an approval without an id": response("202 Accepted", b'{"response": "x", "approval": {"calls": []}}'),
    "half of an answer": response("200 OK", b'{"response": "hal')[:-3],
    "not HTTP": b"220 mail.example ESMTP\r\n",
}


@pytest.mark.parametrize("case", GARBAGE)
async def test_an_invalid_answer_is_a_502(case: str, http_node: HttpNode, fake_peer: FakePeer, tmp_path: Path) -> None:
    fake_peer.response = GARBAGE[case]
    write_hosts(tmp_path, odd=f"http://127.0.0.1:{fake_peer.port}")

    answer = await query(http_node, "odd", approve=True)

    assert answer.status_code == 502, answer.text
    assert answer.json()["error"]["message"].startswith("odd: ")


async def test_control_characters_of_another_host_are_removed(
    http_node: HttpNode, fake_peer: FakePeer, tmp_path: Path
) -> None:
    fake_peer.response = response("200 OK", json.dumps({"response": "fine\x1b[2J\u202e", "notes": ["\x07"]}).encode())
    write_hosts(tmp_path, odd=f"http://127.0.0.1:{fake_peer.port}")

    assert (await query(http_node, "odd")).json()["response"] == "fine"


async def test_a_change_waits_on_the_remote_host_and_is_approved_here(
    http_node: HttpNode, beta: ServingNode, tmp_path: Path
) -> None:
    write_hosts(tmp_path, nas=beta)
    file = tmp_path / "done"

    asked = await query(http_node, "nas", f"run command touch {file}", "exec")

    assert asked.status_code == 202, asked.text
    approval = asked.json()["approval"]
    assert [call["hosts"] for call in approval["calls"]] == [["beta"]] and not file.exists()
    assert approval["id"] not in {entry.stem for entry in (beta.home / "approvals").iterdir()}
    path = f"/agent/approvals/{approval['id']}"
    assert (await http_node.request("operate", path, {"approve": True})).status_code == 403
    done = await http_node.request("exec", path, {"approve": True})
    assert done.status_code == 200 and done.json()["calls"][0]["host"] == "beta"
    assert file.exists()
    assert status_and_code(await http_node.request("exec", path, {"approve": True})) == (410, "gone")


@pytest.mark.parametrize("approve", [True, False])
@pytest.mark.parametrize("caller", ["read", "operate"])
async def test_a_forwarded_question_has_only_the_rights_of_its_caller(
    caller: str, approve: bool, http_node: HttpNode, beta: ServingNode, tmp_path: Path
) -> None:
    """The token of the node itself has all rights there."""
    write_hosts(tmp_path, nas=beta)
    file = tmp_path / "done"

    answer = await query(http_node, "nas", f"run command touch {file}", caller, approve=approve)

    assert status_and_code(answer) == (403, "denied")
    assert "needs the scope `exec`" in answer.json()["error"]["message"]
    assert not file.exists()


@pytest.mark.parametrize(
    ("scopes", "expected"), [("read", 200), ("exec", 200), ("", 401), ("root", 401), ("read,,exec", 200)]
)
def test_a_header_can_only_remove_rights(scopes: str, expected: int, beta: ServingNode) -> None:
    headers = {"X-Anvyl-Scopes": scopes, "X-Anvyl-For": "anna%20b"}
    with httpx.Client(base_url=beta.url, headers=headers) as client:
        assert client.get("/agent/info").status_code == expected
        answer = client.get("/pair").json()

    assert expected != 200 or (answer["name"].startswith("anna b through ") and answer["scopes"][0] == "read")


async def test_a_question_is_not_forwarded_to_a_host_on_its_path(
    http_node: HttpNode, beta: ServingNode, tmp_path: Path
) -> None:
    write_hosts(tmp_path, nas=beta.url)
    here = Hop("alpha", installation_id(tmp_path))
    async with http_node.client("read") as client:
        client.headers["X-Anvyl-Path"] = f"zeta~{'0' * 16},{here}"
        for path, body in {
            "/agent/process": {"query": "host info"},
            "/agent/remote-query": {"host_id": "nas", "query": "host info"},
            "/agent/broadcast": {"message": "host info"},
        }.items():
            answer = await client.post(path, json=body)
            assert status_and_code(answer) == (409, "conflict"), path
            assert "zeta → alpha → alpha" in answer.json()["error"]["message"]


async def test_a_host_known_under_another_name_too_is_asked_once(beta: ServingNode, gamma: ServingNode) -> None:
    """Hosts that know each other, and themselves: each is one entry, and forwarding ends."""
    write_hosts(beta.home, itself=beta.url, gamma=gamma.url)
    write_hosts(gamma.home, beta=beta.url)
    try:
        async with httpx.AsyncClient(base_url=beta.url, timeout=60) as client:
            results = (await client.post("/agent/broadcast", json={"message": "host info"})).json()["results"]
    finally:
        write_hosts(beta.home)
        write_hosts(gamma.home)

    entries = {entry["host_id"]: entry for entry in results}
    assert "loop" in entries["itself"]["result"] and entries["itself"]["error"]["code"] == "conflict"
    assert "error" not in entries["gamma"] and "gamma" in entries["gamma"]["result"]


@pytest.mark.parametrize("path", ["x", "alpha~1", "alpha", "~", f"alpha~{'g' * 16}", f"a\u00e9~{'0' * 16}"])
async def test_a_malformed_path_header_is_refused(path: str, http_node: HttpNode) -> None:
    async with http_node.client("read") as client:
        answer = await client.post(
            "/agent/process", json={"query": "list hosts"}, headers=[(b"X-Anvyl-Path", path.encode("latin-1"))]
        )

    assert status_and_code(answer) == (422, "invalid_input")


def test_a_path_grows_to_a_maximum_length() -> None:
    path: tuple[Hop, ...] = ()
    for number in range(8):
        path = parse(",".join(map(str, append_hop(path, Hop("same", f"{number:016x}")))))

    with pytest.raises(Exception, match="forwarded too often"):
        append_hop(path, Hop("last", "f" * 16))


def test_an_installation_keeps_its_id(tmp_path: Path) -> None:
    assert installation_id(tmp_path) == installation_id(tmp_path) != installation_id(tmp_path / "other")


async def test_broadcast_reaches_all_hosts_despite_one_failure(
    http_node: HttpNode, beta: ServingNode, gamma: ServingNode, fake_peer: FakePeer, tmp_path: Path
) -> None:
    fake_peer.response = response("200 OK", b"[]")
    hosts = {
        "gamma": gamma.url,
        "down": "http://127.0.0.1:1",
        "far": "http://192.168.1.100:4200",
        "odd": f"http://127.0.0.1:{fake_peer.port}",
        "beta": beta.url,
    }
    write_hosts(tmp_path, **hosts)

    answer = await http_node.request("read", "/agent/broadcast", {"message": "host info"})

    results = answer.json()["results"]
    assert [entry["host_id"] for entry in results] == ["alpha", *hosts], "this host answers too"
    entries = {entry["host_id"]: entry for entry in results}
    codes = {name: entry["error"]["code"] for name, entry in entries.items() if "error" in entry}
    assert codes == {"down": "refused", "far": "unpaired", "odd": "unreachable"}
    assert all(entries[name]["error"]["message"] in entries[name]["result"] for name in codes)
    assert "beta" in entries["beta"]["result"] and "gamma" not in entries["beta"]["result"]


async def test_the_changes_of_a_broadcast_wait_for_approval_per_host(
    http_node: HttpNode, beta: ServingNode, gamma: ServingNode, tmp_path: Path
) -> None:
    write_hosts(tmp_path, beta=beta, gamma=gamma)
    log = tmp_path / "log"

    answer = await http_node.request("exec", "/agent/broadcast", {"message": f"run command sh -c 'echo once >> {log}'"})

    waiting = {entry["host_id"]: entry["approval"]["id"] for entry in answer.json()["results"]}
    assert set(waiting) == {"alpha", "beta", "gamma"} and not log.exists()
    assert (
        await http_node.request("exec", f"/agent/approvals/{waiting['beta']}", {"approve": True})
    ).status_code == 200
    assert log.read_text(encoding="utf-8") == "once\n"


async def test_the_tools_of_a_host_without_a_model_are_used_from_here(
    http_node: HttpNode, beta: ServingNode, tmp_path: Path, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rules do not understand the question, but our model does, and calls its tools over MCP."""
    write_hosts(tmp_path, nas=beta.url)
    model_server.replies += [tool_call("get_host_info", {}), text("It is a fine machine.")]
    object.__setattr__(http_node.node.settings, "lmstudio_url", model_server.url)

    answer = await query(http_node, "nas", "do you think it would win a beauty contest?")

    body = answer.json()
    assert (answer.status_code, body["via"], body["mode"]) == (200, "tools", "model"), body
    assert [(call["tool"], call["host"], call["ok"]) for call in body["calls"]] == [("get_host_info", "nas", True)]
    assert "its tools were used from here" in body["response"]


async def test_a_question_that_neither_side_understands_is_a_422(
    http_node: HttpNode, beta: ServingNode, tmp_path: Path
) -> None:
    write_hosts(tmp_path, nas=beta.url)

    assert status_and_code(await query(http_node, "nas", "make me a sandwich")) == (422, "not_understood")


class ToolsOnly(ToyTools):
    """A third-party MCP server without an agent."""

    def __init__(self) -> None:
        super().__init__()
        self.tools = {"list_images": self._images}

    async def _images(self, *_: object) -> CallToolResult:
        return CallToolResult(content=[], structured_content={"images": [], "total": 0, "more": 0})


async def test_the_tools_of_an_mcp_server_without_an_agent_are_used(http_node: HttpNode, tmp_path: Path) -> None:
    toy = ToolsOnly()
    with serve_toy(toy) as host:
        write_hosts(tmp_path, tools=host.url)

        answer = await query(http_node, "tools", "list images")

        await http_node.node.fleet.aclose()
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["via"], body["hosts"]) == ("tools", {"tools": "ok"})
    assert "HTTP 404" in body["notes"][-1] and "its tools were used from here" in body["response"]
    assert [meta["anvyl/scopes"] for meta in toy.metas] == [["read"]]


async def test_the_fallback_to_tools_never_repeats_a_change(
    http_node: HttpNode, fake_peer: FakePeer, tmp_path: Path
) -> None:
    """An agent that failed after the approval may have made the change."""
    fake_peer.response = response(
        "500 Internal Server Error", b'{"error": {"code": "internal_error", "message": "oh"}}'
    )
    write_hosts(tmp_path, odd=f"http://127.0.0.1:{fake_peer.port}")

    answer = await query(http_node, "odd", "run command true", "exec", approve=True)

    assert status_and_code(answer) == (500, "internal_error") and len(fake_peer.requests) == 1
