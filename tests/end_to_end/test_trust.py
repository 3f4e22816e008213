"""Pairing two hosts and access control, by commands and HTTP over a real network address."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from tests.support.engine.engines import RealEngine
from tests.support.hosts.network import Lan, lan
from tests.support.hosts.nodes import ANVYL_MCP, CommandResult, ServingNode, run_program, running_node

__all__ = ["lan"]


@pytest.fixture
def node(lan: Lan, engine: RealEngine, tmp_path: Path) -> Iterator[ServingNode]:
    """A host `beta` in its own network namespace, still on loopback only."""
    with running_node("beta", tmp_path / "beta", engine, prefix=lan.prefix) as started:
        yield started


def on_beta(lan: Lan, node: ServingNode, *arguments: str) -> CommandResult:
    return run_program(*arguments, program=ANVYL_MCP, prefix=lan.prefix, ANVYL_HOME=str(node.home))


def here(lan: Lan, *arguments: str) -> CommandResult:
    """Run a command on this host, `alpha`, with the home of the test."""
    return run_program(*arguments, prefix=lan.far, ANVYL_NAME="alpha", DOCKER_HOST="unix:///nonexistent/docker.sock")


def invited(lan: Lan, node: ServingNode, *options: str) -> dict[str, Any]:
    made = on_beta(lan, node, "invite", "--host", lan.address, "--json", *options)
    assert made.code == 0, made.err
    return made.json


def test_one_line_on_each_side_pairs_two_hosts(lan: Lan, node: ServingNode, engine: RealEngine, tmp_path: Path) -> None:
    engine.run("web")
    invitation = on_beta(lan, node, "invite", "--host", lan.address)
    code = invitation.out.split()[-1]
    assert f"beta is now open to the network at https://{lan.address}:" in node.line()

    joined = here(lan, "hosts", "add", code)

    assert joined.code == 0, joined.err
    assert f"added beta (https://{lan.address}" in joined.err and "it answers" in joined.err
    assert "read, operate" in joined.err
    assert (tmp_path / "hosts.toml").stat().st_mode & 0o777 == 0o600
    stopped = here(lan, "ask", "stop web on beta", "--yes", "--offline", "--json")
    assert stopped.json["hosts"] == {"beta": "ok"}, stopped.err
    assert engine.state("web") == "exited"
    checked = here(lan, "hosts", "check", "beta", "--json").json["hosts"]["beta"]
    assert checked["scopes"] == ["read", "operate"]
    assert checked["pin"].startswith("sha256:")
    assert abs(checked["clock_seconds"]) < 5
    [token] = on_beta(lan, node, "token", "list", "--json").json["tokens"]
    assert (token["name"], token["scopes"]) == ("alpha", ["read", "operate"])
    assert token["last_used"]


def test_a_code_can_be_used_once(lan: Lan, node: ServingNode, tmp_path: Path) -> None:
    code = invited(lan, node)["code"]
    assert here(lan, "hosts", "add", code).code == 0

    again = run_program("hosts", "add", code, prefix=lan.far, ANVYL_HOME=str(tmp_path / "gamma"), ANVYL_NAME="gamma")

    assert again.code == 1
    assert "already been used by `alpha`" in again.err


def test_a_mistyped_code_sends_nothing(lan: Lan, node: ServingNode) -> None:
    code = invited(lan, node)["code"]
    swapped = code[:-6] + code[-5] + code[-6] + code[-4:]

    refused = here(lan, "hosts", "add", swapped if swapped != code else code[:-1])

    assert refused.code == 2
    assert here(lan, "hosts", "add", code).code == 0


def test_root_equivalent_options_need_exec(lan: Lan, node: ServingNode, engine: RealEngine) -> None:
    assert here(lan, "hosts", "add", invited(lan, node)["code"]).code == 0

    command = here(lan, "call", "execute_command", "command=id", "--host", "beta", "--yes")
    mounted = here(
        lan, "call", "create_container", "image=busybox", "name=evil", "volumes=/:/host", "--host", "beta", "--json"
    )

    assert command.code == 1 and "needs the scope `exec`" in command.err
    assert mounted.json["hosts"]["beta"]["code"] == "denied"
    assert engine.state("evil") is None
    assert here(lan, "hosts", "remove", "beta").code == 0
    assert here(lan, "hosts", "add", invited(lan, node, "--scope", "exec")["code"]).code == 0
    done = here(lan, "call", "execute_command", "command=echo hello", "--host", "beta", "--yes")
    assert (done.code, done.out) == (0, "hello\n"), done.err


def test_removing_a_host_revokes_its_token_there(lan: Lan, node: ServingNode) -> None:
    assert here(lan, "hosts", "add", invited(lan, node)["code"]).code == 0

    assert here(lan, "hosts", "remove", "beta", "--json").json["hosts"]["beta"]["revoked"] is True
    assert on_beta(lan, node, "token", "list", "--json").json["tokens"] == []


def test_a_revoked_token_stops_working_at_once(lan: Lan, node: ServingNode) -> None:
    assert here(lan, "hosts", "add", invited(lan, node)["code"]).code == 0
    assert here(lan, "ps", "--host", "beta").code == 0

    assert on_beta(lan, node, "token", "revoke", "alpha").code == 0

    refused = here(lan, "ps", "--host", "beta")
    assert refused.code == 1
    assert "revoked" in refused.err


def test_a_host_known_by_address_can_be_paired_with_a_code(lan: Lan, node: ServingNode) -> None:
    made = invited(lan, node)
    address, port = made["addresses"][0].rsplit(":", 1)
    assert here(lan, "hosts", "add", "nas", f"{address}:{port}", "--tag", "home").code == 0
    assert "not paired" in here(lan, "agent", "query-remote", "nas", "host info").err

    assert here(lan, "hosts", "add", made["code"]).code == 0

    hosts = here(lan, "hosts", "list", "--json").json["hosts"]
    assert set(hosts) == {"alpha", "nas"} and (hosts["nas"]["ok"], hosts["nas"]["tags"]) == (True, ["home"])


def test_another_hosts_agent_gives_no_more_rights_than_our_token_has_there(lan: Lan, node: ServingNode) -> None:
    """Over TLS to its pinned key; the user of this machine has every right on it."""
    assert here(lan, "hosts", "add", invited(lan, node)["code"]).code == 0

    answer = here(lan, "agent", "query-remote", "beta", "host info", "--json")
    refused = here(lan, "agent", "query-remote", "beta", "run command true")
    denied = here(lan, "agent", "query-remote", "beta", "run command true", "--yes")

    assert (answer.code, answer.json["via"], answer.json["hosts"]) == (0, "agent", {"beta": "ok"}), answer.err
    assert refused.code == 1 and "needs the scope `exec`" in refused.err
    assert denied.code == 1
    records = on_beta(lan, node, "audit", "--json").json["records"]
    assert [record["who"] for record in records if record["tool"] == "get_host_info"] == [
        "local through alpha through local"
    ]


def test_a_host_can_be_added_manually(lan: Lan, node: ServingNode) -> None:
    made = invited(lan, node)
    token = on_beta(lan, node, "token", "create", "script", "--scope", "read", "--json").json["token"]
    address = f"https://{made['addresses'][0]}"

    added = here(lan, "hosts", "add", "nas", address, "--token", token, "--pin", made["pin"])

    assert added.code == 0 and "it answers" in added.err
    assert here(lan, "hosts", "check", "nas", "--json").json["hosts"]["nas"]["scopes"] == ["read"]
    stop = here(lan, "stop", "web", "--host", "nas")
    assert "needs the scope `operate`" in stop.err


def test_a_host_with_another_key_gets_nothing(lan: Lan, node: ServingNode) -> None:
    made = invited(lan, node)
    token = on_beta(lan, node, "token", "create", "script", "--json").json["token"]
    wrong = "sha256:" + "A" * 43

    added = here(lan, "hosts", "add", "nas", f"https://{made['addresses'][0]}", "--token", token, "--pin", wrong)

    assert "does not answer: " in added.err and "key" in added.err


def test_the_network_listener_refuses_requests_without_a_token(lan: Lan, node: ServingNode) -> None:
    address = f"https://{invited(lan, node)['addresses'][0]}"
    seen = lan.run(PROBE, address)

    assert seen["/health"] == [200, ["service", "status", "version"]]
    assert all(status == 401 for path, (status, _) in seen.items() if path != "/health"), seen
    plain = lan.run(PROBE, address.replace("https:", "http:"))
    assert all(status == 0 for status, _ in plain.values()), plain


ROUTES = {
    # route: status without a token, with read, operate, exec
    ("GET", "/health"): (200, 200, 200, 200),
    ("DELETE", "/session"): (401, 403, 403, 403),  # before the one that gives up the token
    ("GET", "/metrics"): (401, 200, 200, 200),
    ("GET", "/agent/info"): (401, 200, 200, 200),
    ("GET", "/openapi.json"): (401, 200, 200, 200),
    ("GET", "/docs"): (401, 200, 200, 200),
    ("POST", "/agent/process"): (401, 200, 200, 200),
    ("POST", "/agent/process/stream"): (401, 200, 200, 200),
    ("POST", "/agent/approvals/{id}"): (401, 403, 404, 404),
    ("POST", "/agent/remote-query"): (401, 403, 403, 403),  # these three query other hosts, which needs a relay token
    ("POST", "/agent/broadcast"): (401, 403, 403, 403),
    ("GET", "/agent/hosts"): (401, 403, 403, 403),
    ("POST", "/agent/hosts"): (401, 403, 403, 422),
    ("DELETE", "/agent/hosts/{host_id}"): (401, 403, 403, 404),
    ("POST", "/mcp"): (401, 200, 200, 200),
    ("POST", "/pair"): (422, 422, 422, 422),  # needs no token, but a one-time secret
    ("GET", "/pair"): (401, 200, 200, 200),
    ("DELETE", "/pair"): (401, 200, 200, 200),
    ("POST", "/network"): (401, 403, 403, 403),  # only on the host itself
    ("GET", "/"): (200, 200, 200, 200),  # the page, which is the same on every host
    ("GET", "/anvyl.css"): (200, 200, 200, 200),
    ("GET", "/anvyl.js"): (200, 200, 200, 200),
    ("POST", "/session"): (422, 422, 422, 422),  # needs no token, but a one-time secret
    ("GET", "/session"): (401, 403, 403, 403),  # like its DELETE, for the session of a browser
    ("GET", "/agent/fleet"): (401, 200, 200, 200),
    ("GET", "/agent/approvals"): (401, 403, 200, 200),
    ("POST", "/agent/call"): (401, 403, 404, 404),
}


def test_every_route_checks_the_scopes_of_every_caller(lan: Lan, node: ServingNode) -> None:
    made = invited(lan, node)
    tokens = [
        on_beta(lan, node, "token", "create", scope, "--scope", scope, "--json").json["token"]
        for scope in ("read", "operate", "exec")
    ]
    served = {
        (method, route.path)
        for route in Node(load()).http_app(lambda: "", no_addresses).routes
        if isinstance(route, Route)
        for method in (route.methods or {"POST"}) - {"HEAD"}
    }
    assert served == set(ROUTES)

    seen = lan.run(KNOCK, f"https://{made['addresses'][0]}", made["pin"], json.dumps(["", *tokens]))

    assert {tuple(route.split(" ")): tuple(statuses) for route, statuses in seen.items()} == ROUTES


async def no_addresses(address: str) -> list[str]:
    return []


@pytest.mark.parametrize(("token", "may"), [("read", 0), ("operate", 1), ("exec", 2)])
def test_a_tool_requires_its_scope(lan: Lan, node: ServingNode, token: str, may: int) -> None:
    made = invited(lan, node)
    text = on_beta(lan, node, "token", "create", token, "--scope", token, "--json").json["token"]

    codes = lan.run(TOOLS, f"https://{made['addresses'][0]}", made["pin"], text)

    assert [code == "denied" for code in codes] == [False, may < 1, may < 2]


def test_a_damaged_token_file_denies_all_and_is_kept(lan: Lan, node: ServingNode) -> None:
    assert here(lan, "hosts", "add", invited(lan, node)["code"]).code == 0
    (node.home / "trust/tokens.json").write_bytes(DAMAGED)

    refused, listed = here(lan, "ps", "--host", "beta"), on_beta(lan, node, "token", "list")

    assert refused.code == 1 and "trust" not in refused.err
    assert listed.code == 1 and "tokens.json" in listed.err
    assert (node.home / "trust/tokens.json").read_bytes() == DAMAGED


def test_a_damaged_key_keeps_the_host_off_the_network(lan: Lan, node: ServingNode) -> None:
    invited(lan, node)
    node.stop()
    (node.home / "trust/key.pem").write_bytes(DAMAGED)

    refused = on_beta(lan, node, "serve", "--port", "0", "--agent-port", "0")

    assert refused.code == 1
    assert str(node.home / "trust/key.pem") in refused.err
    assert (node.home / "trust/key.pem").read_bytes() == DAMAGED


def test_a_pairing_is_still_there_after_a_restart(lan: Lan, node: ServingNode) -> None:
    assert here(lan, "hosts", "add", invited(lan, node)["code"]).code == 0

    node.restart()

    assert here(lan, "ps", "--host", "beta").code == 0


def test_the_listing_shows_only_what_the_caller_may_call(lan: Lan, node: ServingNode) -> None:
    made = invited(lan, node)
    token = on_beta(lan, node, "token", "create", "reader", "--scope", "read", "--json").json["token"]

    listed = lan.run(LIST, f"https://{made['addresses'][0]}", made["pin"], token)

    assert "list_containers" in listed and "get_container_logs" in listed
    assert not {"stop_container", "create_container", "execute_command"} & set(listed)


def test_everything_is_in_the_audit_log_and_the_chain_is_intact(
    lan: Lan, node: ServingNode, engine: RealEngine
) -> None:
    engine.run("web", environment={"A": "b"})
    assert here(lan, "hosts", "add", invited(lan, node)["code"]).code == 0
    here(lan, "stop", "web", "--host", "beta")
    here(lan, "call", "execute_command", "command=curl --password=hunter2 x", "--host", "beta", "--yes")

    records = on_beta(lan, node, "audit", "--json").json["records"]

    stop = next(record for record in records if record["tool"] == "stop_container")
    assert (stop["who"], stop["how"], stop["outcome"]) == ("alpha", "token", "ok")
    assert len(stop["operation"]) == 36
    denied = next(record for record in records if record["tool"] == "execute_command")
    assert denied["outcome"] == "denied" and "hunter2" not in json.dumps(denied)
    assert on_beta(lan, node, "audit", "verify").code == 0
    [log] = [file for file in (node.home / "audit").iterdir() if file.suffix == ".jsonl"]
    log.write_text(log.read_text(encoding="utf-8").replace("stop_container", "start_container"), encoding="utf-8")
    tampered = on_beta(lan, node, "audit", "verify", "--json")
    assert tampered.code == 1 and tampered.json["ok"] is False


def test_a_question_over_http_has_only_the_rights_of_its_caller(
    lan: Lan, node: ServingNode, engine: RealEngine
) -> None:
    engine.run("web")
    made = invited(lan, node)
    token = on_beta(lan, node, "token", "create", "reader", "--scope", "read", "--json").json["token"]

    answer = lan.run(ASK, f"https://{made['addresses'][0]}", made["pin"], token)

    assert "needs the scope `operate`" in json.dumps(answer)
    assert engine.state("web") == "running"


def test_volumes_give_no_access_that_the_caller_does_not_have(lan: Lan, node: ServingNode, engine: RealEngine) -> None:
    """A volume may be a bind mount of a host folder, or belong to a container that the caller must not touch."""
    engine.api.create_volume("rootvol", driver_opts={"type": "none", "device": "/", "o": "bind"})
    engine.run("diary", labels={"anvyl.protect": "true"}, binds=["diarydata:/data"])
    try:
        assert here(lan, "hosts", "add", invited(lan, node)["code"]).code == 0
        start = ("call", "create_container", "image=busybox", "command=sleep 9", "--host", "beta", "--json")

        disguised = here(lan, *start, "name=one", "volumes=rootvol:/h").json["hosts"]["beta"]
        foreign = here(lan, *start, "name=two", "volumes=diarydata:/h").json["hosts"]["beta"]
        own = here(lan, *start, "name=three", "volumes=fresh:/h").json["hosts"]["beta"]

        assert disguised["code"] == foreign["code"] == "denied"
        assert "`rootvol`" in disguised["error"] and "`diary`" in foreign["error"]
        assert own["ok"] is True, own
        assert engine.state("one") is None and engine.state("two") is None
    finally:
        for container in ("three", "diary"):
            engine.api.remove_container(container, force=True)
        for volume in ("rootvol", "diarydata", "fresh"):
            engine.api.remove_volume(volume)


def test_secrets_in_commands_labels_and_logs_are_hidden(lan: Lan, node: ServingNode, engine: RealEngine) -> None:
    script = "echo login token=hunter1; sleep 3600; : --db-password=hunter2"
    engine.run("web", ["sh", "-c", script], labels={"db.password": "hunter3"})

    info, logs = (
        run_program("call", tool, "name=web", "--json", prefix=lan.prefix, ANVYL_HOME=str(node.home))
        for tool in ("get_container_info", "get_container_logs")
    )

    assert info.code == logs.code == 0
    assert "hunter" not in info.out + logs.out
    assert "<hidden>" in info.out and "<hidden>" in logs.out


def test_refused_requests_cannot_push_other_records_out_of_the_audit_log(lan: Lan, node: ServingNode) -> None:
    made = invited(lan, node)
    token = on_beta(lan, node, "token", "create", "reader", "--scope", "read", "--json").json["token"]

    lan.run(FLOOD, f"https://{made['addresses'][0]}", made["pin"], token)

    log = (node.home / "audit" / "audit.jsonl").stat().st_size
    assert log < 100 * 1024, "200 refused calls of 8 KiB each are recorded by name only, and not all of them"


def test_no_caller_can_change_a_protected_container(engine: RealEngine, lan: Lan, node: ServingNode) -> None:
    engine.run("db", labels={"anvyl.protect": "true"})
    engine.run("diary", labels={"anvyl.read": "false"})

    stopped = run_program("stop", "db", prefix=lan.prefix, ANVYL_HOME=str(node.home))
    read = run_program("call", "get_container_logs", "name=diary", prefix=lan.prefix, ANVYL_HOME=str(node.home))

    assert stopped.code == 1 and "anvyl.protect" in stopped.err
    assert read.code == 1 and "anvyl.read" in read.err
    assert engine.state("db") == "running"


MCP_HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/list",
}
LISTING = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/list",
    "params": {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "knock", "version": "0"},
        }
    },
}
DAMAGED = b"\x00 damaged"
PATHS = ["/health", "/metrics", "/mcp", "/agent/info", "/agent/process", "/network", "/pair", "/nothing"]
PROBE = f"""
import json, sys, httpx
seen = {{}}
for path in {PATHS!r}:
    try:
        with httpx.Client(verify=False, trust_env=False, timeout=5) as client:
            answer = client.get(sys.argv[1] + path)
        body = sorted(answer.json()) if answer.status_code == 200 else None
        seen[path] = [answer.status_code, body]
    except httpx.TransportError:
        seen[path] = [0, None]
print(json.dumps(seen))
"""
LIST = """
import anyio, json, sys
from anvyl_mcp.peers.connection import transports
async def main():
    connection = transports.connect(sys.argv[1], lean=True, pin=sys.argv[2], token=sys.argv[3])
    print(json.dumps([tool.name for tool in await connection.list_tools()]))
    await connection.close()
anyio.run(main)
"""
KNOCK = f"""
import json, sys, time, httpx
from anvyl_mcp.peers.connection.tls_pinning import pinned_context
seen = {{}}
ASK = {{"query": "list hosts"}}
BODIES = {{
    "/agent/process": ASK,
    "/agent/process/stream": ASK,
    "/agent/approvals/{{id}}": {{"approve": True}},
    "/agent/remote-query": {{"host_id": "nas", **ASK}},
    "/agent/broadcast": {{"message": "list hosts"}},
    "/network": {{"address": "0.0.0.0"}},
    "/agent/call": {{"tool": "stop_container", "arguments": {{"name": "nothing"}}}},
    "/mcp": CALL,
}}
ROUTES = {sorted(ROUTES, key=lambda route: route[0] == "DELETE")!r}
with httpx.Client(verify=pinned_context([sys.argv[2]]), trust_env=False, timeout=30) as client:
    for method, path in ROUTES:
        for token in json.loads(sys.argv[3]):
            headers = {{"Authorization": "Bearer " + token}} if token else {{}}
            headers |= HEADERS if path == "/mcp" else {{}}
            body = BODIES.get(path, {{}}) if method == "POST" else None
            request = client.build_request(method, sys.argv[1] + path, json=body, headers=headers)
            answer = client.send(request, stream=path == "/agent/fleet")
            answer.close()
            while answer.status_code == 429:
                time.sleep(int(answer.headers["Retry-After"]))
                answer = client.request(method, sys.argv[1] + path, json=body, headers=headers)
            seen.setdefault(method + " " + path, []).append(answer.status_code)
print(json.dumps(seen))
""".replace("CALL", repr(LISTING)).replace("HEADERS", repr(MCP_HEADERS))
TOOLS = """
import anyio, json, sys
from anvyl_mcp.peers.connection import transports
CALLS = [("list_containers", {}), ("start_container", {"name": "no-such"}), ("execute_command", {"command": "true"})]
async def main():
    connection = transports.connect(sys.argv[1], lean=True, pin=sys.argv[2], token=sys.argv[3])
    answers = [await connection.call(tool, arguments, seconds=10) for tool, arguments in CALLS]
    print(json.dumps([answer.error.code if answer.error else "" for answer in answers]))
    await connection.close()
anyio.run(main)
"""
FLOOD = """
import anyio, sys
from anvyl_mcp.peers.connection import transports
async def main():
    connection = transports.connect(sys.argv[1], lean=True, pin=sys.argv[2], token=sys.argv[3])
    for _ in range(200):
        await connection.call("execute_command", {"command": "x" * 8000}, seconds=10)
    await connection.close()
anyio.run(main)
print("null")
"""
ASK = """
import json, sys, httpx
from anvyl_mcp.peers.connection.tls_pinning import pinned_context
with httpx.Client(verify=pinned_context([sys.argv[2]]), trust_env=False, timeout=30) as client:
    answer = client.post(sys.argv[1] + "/agent/process", json={"query": "stop web", "approve": True},
                         headers={"Authorization": "Bearer " + sys.argv[3]})
print(json.dumps(answer.json()))
"""
