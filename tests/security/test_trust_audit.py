"""The audit log records admissions, refusals and policy changes; no caller can take the name of another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anvyl_mcp.core.errors import Denied, InvalidInput
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.audit.events import BURST, RefusedLogins
from anvyl_mcp.server.audit.log import Audit
from anvyl_mcp.server.auth.callers import Caller, restrict
from anvyl_mcp.server.http.host_state import HostState
from anvyl_mcp.server.policy.rules import caller_names
from tests.server.auth.test_jwt import signed, verifier
from tests.support.hosts.nodes import ANVYL_MCP, ServingNode, run_program, running_node

__all__ = ["verifier"]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServingNode]:
    """A host without an engine, with the home of the test."""
    with running_node("nas", tmp_path, DOCKER_HOST="unix:///nonexistent/docker.sock") as started:
        yield started


@pytest.fixture
def kept() -> HostState:
    """State of the same host."""
    return HostState(load().state_dir)


def here(*arguments: str) -> Any:
    return run_program(*arguments, program=ANVYL_MCP)


def shown(*tools: str) -> list[dict[str, Any]]:
    """Records that `anvyl-mcp audit` shows, for these tools or all."""
    found: list[dict[str, Any]] = here("audit", "--json").json["records"]
    return [one for one in found if not tools or one["tool"] in tools]


def pair(node: ServingNode, secret: str, name: str = "laptop") -> httpx.Response:
    return httpx.post(f"{node.url}/pair", json={"secret": secret, "name": name}, trust_env=False)


def test_pairing_tokens_and_keys_are_recorded(node: ServingNode, kept: HostState) -> None:
    """Once none of this was in the log."""
    scopes, secret = kept.invite("read,operate", 60, relay=True)
    token = pair(node, secret).json()["token"]
    used = pair(node, secret, "mallory")
    wrong = pair(node, "A" * 22)
    assert here("token", "create", "script", "--scope", "read").code == 0
    assert here("token", "revoke", "script").code == 0
    assert here("token", "revoke", "script").code == 1
    assert here("key", "rotate").code == 0 and here("key", "rotate", "--cancel").code == 0
    left = httpx.delete(f"{node.url}/pair", headers={"Authorization": f"Bearer {token}"}, trust_env=False)

    records = [(one["tool"], one["who"], one["outcome"]) for one in shown()]
    assert (used.status_code, wrong.status_code, left.status_code, scopes) == (403, 403, 200, ["read", "operate"])
    assert records == [
        ("create_invite", "local", "ok"),
        ("join", "laptop", "ok"),
        ("join", "nobody", "denied"),
        ("join", "nobody", "denied"),
        ("create_token", "local", "ok"),
        ("revoke_token", "local", "ok"),
        ("revoke_token", "local", "failed"),
        ("rotate_key", "local", "ok"),
        ("rotate_key", "local", "ok"),
        ("revoke_token", "laptop", "ok"),
    ]
    [invited, joined, *_] = shown("create_invite", "join")
    assert invited["arguments"] == {"scope": "read,operate", "relay": True, "seconds": 60}
    assert (joined["address"], joined["how"]) == ("127.0.0.1", "loopback")
    assert "already been used by `laptop`" in shown("join")[1]["arguments"]["reason"]
    assert here("audit", "verify").code == 0
    log = (node.home / "audit" / "audit.jsonl").read_text(encoding="utf-8")
    assert secret not in log and token not in log


def test_refused_logins_are_recorded_without_filling_the_log(node: ServingNode) -> None:
    wrong = {"Authorization": "Bearer anv_00000000_wrong"}
    with httpx.Client(base_url=node.url, trust_env=False) as client:
        answers = [client.get("/agent/info", headers=wrong).status_code for _ in range(300)]
    assert set(answers) <= {401, 429}
    size = (node.home / "audit" / "audit.jsonl").stat().st_size

    assert node.stop() == 0

    records = shown("login")
    single = [one for one in records if "reason" in one["arguments"]]
    counted = sum(one["arguments"].get("refused", 0) for one in records)
    assert len(single) + counted == 300
    assert BURST <= len(records) <= BURST + 4 and size < 16 * 1024
    assert {(one["who"], one["outcome"]) for one in records} == {("nobody", "denied")}
    assert {one["address"] for one in single} == {"127.0.0.1"}
    assert "unknown token" in single[0]["arguments"]["reason"]
    assert here("audit", "verify").code == 0


def test_refused_logins_are_recorded_again_after_a_pause(tmp_path: Path) -> None:
    now = [0.0]
    audit = Audit(tmp_path / "audit")
    refused = RefusedLogins(audit, clock=lambda: now[0])

    def come(address: str) -> None:
        if refused.take_slot():
            refused.record("no", address)
        else:
            refused.count(address)

    for number in range(1000):
        come(f"192.0.2.{number % 250}")
    now[0] += 61
    come("192.0.2.9")

    written = [record.arguments or {} for record in audit.read()]
    assert len(written) == BURST + 2
    assert written[-2]["refused"] == 1000 - BURST and "others" in written[-2]["from"]


def test_a_change_of_policy_is_recorded(node: ServingNode, kept: HostState, tmp_path: Path) -> None:
    def call() -> None:
        answer = httpx.post(f"{node.url}/agent/process", json={"query": "host resources"}, trust_env=False, timeout=60)
        assert answer.status_code == 200, answer.text

    file = tmp_path / "policy.toml"
    call()
    file.write_text('[[deny]]\ntools = ["stop_container"]\n', encoding="utf-8")
    call()
    call()
    file.write_text("nonsense", encoding="utf-8")
    call()
    node.stop()
    file.write_text("", encoding="utf-8")
    node.start()
    node.stop()
    file.unlink()
    node.start()

    changes = shown("change_policy")
    assert [(one["who"], one["outcome"], one["arguments"]["deny"]) for one in changes] == [
        ("anvyl", "ok", 1),
        ("anvyl", "failed", 1),
        ("anvyl", "ok", 0),
        ("anvyl", "ok", 0),
    ]
    assert changes[-1]["arguments"]["sha256"] == "none" and kept.audit.verify().problem == ""


def test_a_token_needs_an_audit_record_to_be_created_but_not_to_be_revoked(kept: HostState, tmp_path: Path) -> None:
    kept.create_token("old", "read", None)
    kept.audit.close()
    (tmp_path / "audit").rename(tmp_path / "aside")
    (tmp_path / "audit").write_text("in the way", encoding="utf-8")

    with pytest.raises(Denied, match="the audit log cannot be written"):
        kept.create_token("new", "read", None)
    kept.revoke("old")

    assert kept.tokens.list() == []


@pytest.mark.parametrize(
    "subject",
    [
        "mallory through alice",
        "mallory THROUGH alice",
        "mallory\tthrough alice",
        "through alice",
        "alice through",
        "jwt:alice",
        "token:laptop",
        "Local:root",
        "uid:0",
        "root",
        "local",
        "anvyl",
        "nobody",
        "alice\nroot",
        "alice\u200b",
        "alice\u202eroot",
        "alice\x1b[31m",
        " alice",
        "alice ",
        "a" * 201,
    ],
)
async def test_an_identity_provider_cannot_give_a_caller_the_name_of_another(subject: str, verifier: Any) -> None:
    """`mallory through alice` once matched `alice` in a policy."""
    with pytest.raises(Denied):
        await verifier.verify(signed(sub=subject))


@pytest.mark.parametrize(
    "subject", ["ann", "auth0|5f7c8ec7c33c6c004bbafe82", "ann@example.org", "drive-through", "Zoë"]
)
async def test_ordinary_names_are_kept(subject: str, verifier: Any) -> None:
    assert (await verifier.verify(signed(sub=subject))).name == subject


async def test_an_identity_provider_can_grant_relay_as_a_scope(verifier: Any) -> None:
    marked = await verifier.verify(signed(scope="read anvyl:relay"))
    plain = await verifier.verify(signed(scope="read operate"))

    assert (marked.relay, plain.relay, marked.scopes) == (True, False, frozenset({"read"}))


@pytest.mark.parametrize(
    "asking",
    ["alice", "alice through", " through ", "alice through through", "x through alice through ", "alice\nthrough"],
)
def test_the_real_caller_is_identified_when_it_calls_for_others(asking: str) -> None:
    """`alice through` once turned the caller `laptop` into `through laptop`, which no rule matches."""
    caller = restrict(Caller("laptop", frozenset({"read"}), "token"), ["read"], asking)

    assert caller_names(caller, "allow") == ["laptop", "token:laptop"]
    assert {"laptop", "token:laptop"} <= set(caller_names(caller, "deny"))
    assert "through laptop" not in caller_names(caller, "deny")


@pytest.mark.parametrize("name", ["root", "local", "anvyl", "nobody", "a through b", "jwt:alice", "a\nb"])
def test_no_token_name_can_be_mistaken_for_another_caller(name: str, kept: HostState) -> None:
    with pytest.raises(InvalidInput):
        kept.create_token(name, "read", None)


def test_a_join_is_printed_by_the_server(node: ServingNode, kept: HostState) -> None:
    first, second = (kept.invite("read", 60)[1] for _ in range(2))
    started = time.monotonic()
    for secret in (first, second):
        assert pair(node, secret).status_code == 201

    assert node.process.stderr is not None
    lines = [node.process.stderr.readline().decode().strip() for _ in range(2)]
    assert lines == [
        "laptop joined from 127.0.0.1 as `laptop` with read",
        "laptop joined from 127.0.0.1 as `laptop-2` with read",
    ]
    assert time.monotonic() - started < 60
