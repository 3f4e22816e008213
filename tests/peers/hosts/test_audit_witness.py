"""A truncated or rewritten audit log is noticed by machines that have seen more of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from anvyl_mcp.app.node import open_node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.settings import load
from anvyl_mcp.peers.connection.listing import AuditHead, ToolAnswer
from anvyl_mcp.peers.hosts.audit_witness import LEAST_ROTATED, MOST_HEADS, HeadStore, problem_in
from anvyl_mcp.server.audit.log import Audit
from anvyl_mcp.server.audit.reader import HEAD, LOG
from anvyl_mcp.server.audit.reader import ChainHead as End
from anvyl_mcp.server.auth.callers import LOCAL, Caller
from anvyl_mcp.server.auth.limits import Limits
from anvyl_mcp.server.calls.affected_objects import Observer
from anvyl_mcp.server.calls.changes import Changes
from anvyl_mcp.server.calls.gate import Gate
from anvyl_mcp.server.calls.journal import Journal
from anvyl_mcp.server.policy.policy import Policy
from tests.support.engine.fake_engine import FakeEngine
from tests.support.hosts.nodes import CommandResult, ServingNode, anvyl, running_node, write_hosts_file


@pytest.fixture(scope="module")
def nas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    home = tmp_path_factory.mktemp("nas")
    # A host without an engine is unhealthy regardless of its log.
    with FakeEngine(home / "engine.sock") as engine, running_node("nas", home, DOCKER_HOST=engine.url) as node:
        yield node


def looked(times: int = 1) -> None:
    for _ in range(times):
        assert anvyl("call", "list_processes", "limit=1", "--host", "nas", "--json").code == 0


def seen(host: str = "nas") -> list[list[Any]]:
    document = json.loads(load().heads_file.read_text(encoding="utf-8"))
    heads: list[list[Any]] = document["hosts"][host]["heads"]
    return heads


def checked(*options: str) -> CommandResult:
    return anvyl("hosts", "check", "nas", *options, "--json")


def status(ran: CommandResult) -> str:
    return str(ran.json["hosts"]["nas"]["status"])


def cut(folder: Path, records: int) -> None:
    """Remove the last records without leaving a trace in the folder."""
    lines = (folder / LOG).read_bytes().splitlines(keepends=True)[:-records]
    (folder / LOG).write_bytes(b"".join(lines))
    last = json.loads(lines[-1])
    end = End(last["seq"], last["hash"], size=sum(map(len, lines)))
    (folder / HEAD).write_bytes(end.pack())


def write_anew(folder: Path) -> None:
    """Rewrite the log with other records and a valid chain."""
    lines = [json.loads(line) for line in (folder / LOG).read_bytes().splitlines()]
    for name in (LOG, HEAD):
        (folder / name).unlink()
    with closing(Audit(folder)) as audit:
        for _ in lines:
            audit.end(audit.begin("list_images", {}, who="someone", how="token", changes=False), "ok")
    assert audit.verify().problem == ""


def test_a_truncated_log_is_noticed_even_if_it_grew_since(nas: ServingNode) -> None:
    write_hosts_file("nas", nas.url)
    looked(4)
    assert checked().code == 0
    cut(nas.home / "audit", 2)
    looked(4)

    result = checked()

    assert result.code == 1
    assert "its audit log" in status(result) and "this machine has seen" in status(result)
    assert "--accept-audit nas" in result.err or "--accept-audit nas" in result.json["hosts"]["nas"]["hint"]
    assert checked("--accept-audit", "nas").code == 0
    assert checked().code == 0


def test_a_log_that_ends_too_early_is_reported_with_the_missing_record(nas: ServingNode, tmp_path: Path) -> None:
    write_hosts_file("nas", nas.url)
    looked(2)
    cut(nas.home / "audit", 1)

    with FakeEngine(tmp_path / "engine.sock") as engine:
        result = anvyl("hosts", "check", DOCKER_HOST=engine.url)

    assert result.code == 3, "this host is well"
    assert "lost records that this machine has seen" in result.out and "--accept-audit nas" in result.err


def test_a_rewritten_log_is_noticed(nas: ServingNode) -> None:
    write_hosts_file("nas", nas.url)
    looked(2)
    write_anew(nas.home / "audit")

    result = checked()

    assert result.code == 1 and "was rewritten" in status(result)


def test_the_log_of_a_reinstalled_host_can_be_accepted(nas: ServingNode) -> None:
    write_hosts_file("nas", nas.url)
    looked(2)
    for name in (LOG, HEAD):
        (nas.home / "audit" / name).unlink()

    result = checked()

    assert result.code == 1 and "the log is empty" in status(result)
    assert checked("--accept-audit", "nas").code == 0
    looked()
    assert checked().code == 0


def test_a_host_without_an_audit_log_is_healthy(tmp_path: Path) -> None:
    with (
        FakeEngine(tmp_path / "engine.sock") as engine,
        running_node("nas", tmp_path / "fresh", DOCKER_HOST=engine.url) as node,
    ):
        write_hosts_file("nas", node.url)
        assert checked().code == 0
        assert not load().heads_file.exists()


def test_the_heads_of_a_removed_host_are_forgotten(nas: ServingNode) -> None:
    write_hosts_file("nas", nas.url)
    looked()
    assert seen()

    assert anvyl("hosts", "remove", "nas").code == 0

    assert "nas" not in load().heads_file.read_text(encoding="utf-8")


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "sdk"])
async def test_every_client_remembers_where_the_log_ends(nas: ServingNode, lean: bool) -> None:
    write_hosts_file("nas", nas.url)
    async with open_node(load(), lean=lean) as node:
        for host in ("nas", node.local.name):
            assert (await node.fleet.call(host, "list_processes", {"limit": 1})).ok
        own = node.local.name
        [last] = node.state.audit.read(limit=1)

    assert seen()[-1][0] > 0
    assert seen(own)[-1] == [last.seq, last.hash]


def test_the_log_end_needs_the_read_scope(tmp_path: Path) -> None:
    with closing(Audit(tmp_path / "audit")) as audit:
        changes = Changes(audit, Journal(tmp_path / "operations"), Observer(None))
        gate = Gate(audit, Limits(), Policy(tmp_path / "policy.toml"), changes)
        assert gate.response_meta(LOCAL) == {}
        audit.end(audit.begin("list_images", {}, who="x", how="token", changes=False), "ok")
        assert gate.response_meta(LOCAL)[protocol_keys.HEAD]["seq"] == 1
        assert protocol_keys.HEAD not in gate.response_meta(Caller("someone", frozenset(), "token"))


# The heads file.


def head(seq: int) -> AuditHead:
    return AuditHead(seq, f"{seq:064x}")


@pytest.fixture
def heads(tmp_path: Path) -> HeadStore:
    return HeadStore(tmp_path / "heads.json")


def test_kept_heads_are_dense_at_the_end_and_sparse_before(heads: HeadStore) -> None:
    for seq in range(1, 301):
        heads.note("nas", "", head(seq))
        heads.flush()

    kept = [one.seq for one in heads.heads_of("nas", "")]

    assert len(kept) == MOST_HEADS and kept[-1] == 300 and kept[-2] > 295 and kept[0] == 1
    assert any(100 < seq < 295 for seq in kept)


def test_nothing_is_written_without_a_new_head(heads: HeadStore, tmp_path: Path) -> None:
    assert heads.note("nas", "", head(5))
    heads.flush()
    before = (tmp_path / "heads.json").stat()

    assert not heads.note("nas", "", head(5)) and not heads.note("nas", "", head(4))
    heads.flush()

    assert (tmp_path / "heads.json").stat().st_ino == before.st_ino


def test_new_heads_are_written_once_a_second_and_on_close(heads: HeadStore) -> None:
    assert heads.note("nas", "", head(1))
    heads.flush()

    assert not heads.note("nas", "", head(2)), "too soon"
    assert [one.seq for one in heads.heads_of("nas", "")] == [1, 2]


def test_processes_share_the_file(heads: HeadStore, tmp_path: Path) -> None:
    other = HeadStore(tmp_path / "heads.json")
    heads.note("nas", "", head(1))
    other.note("nas", "", head(2))
    other.note("gpu", "", head(7))
    heads.flush()
    other.flush()

    assert [one.seq for one in heads.heads_of("nas", "")] == [1, 2]
    assert [one.seq for one in heads.heads_of("gpu", "")] == [7]


def test_heads_are_discarded_when_the_address_changes(heads: HeadStore) -> None:
    heads.note("nas", "https://a", head(9))
    heads.flush()
    assert heads.heads_of("nas", "https://b") == []
    heads.note("nas", "https://b", head(1))

    assert heads.heads_of("nas", "https://b") == [head(1)]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 2}', b'{"version": 1, "hosts": {"a": 1}}', b"\xff"]
)
def test_a_damaged_file_is_kept_aside(
    heads: HeadStore, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "heads.json").write_bytes(content)

    assert heads.heads_of("nas", "") == []

    [kept] = tmp_path.glob("heads.json.bad-*")
    assert kept.read_bytes() == content and kept.name in caplog.text
    heads.note("nas", "", head(1))
    assert heads.heads_of("nas", "") == [head(1)]


def test_a_file_that_cannot_be_written_does_not_fail_calls(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    heads = HeadStore(tmp_path / "file" / "heads.json")

    assert heads.note("nas", "", head(1))
    heads.flush()
    heads.forget("nas")


@pytest.mark.parametrize(
    "reported",
    [
        *[None, 5, "x", [], {}, {"seq": 1}, {"seq": "1", "hash": "0" * 64}, {"seq": True, "hash": "0" * 64}],
        *[{"seq": 0, "hash": "0" * 64}, {"seq": 2**60, "hash": "0" * 64}, {"seq": 1, "hash": "0" * 63}],
        *[{"seq": 1, "hash": "\x1b[2J" + "0" * 60}, {"seq": 1, "hash": ["0" * 64]}],
    ],
    ids=str,
)
def test_a_malformed_head_is_ignored(reported: object) -> None:
    assert ToolAnswer.from_mcp({"content": [], "_meta": {protocol_keys.HEAD: reported}}).head is None


def log_report(seq: int, first: int = 1, **at: str) -> Mapping[str, Any]:
    return {"seq": seq, "hash": "0" * 64, "first": first, "at": {name[1:]: value for name, value in at.items()}}


@pytest.mark.parametrize(
    ("reported", "words"),
    [
        (log_report(9, _5=head(5).hash), ""),
        (log_report(9, _5="f" * 64), "was rewritten"),
        (log_report(9), "record 5 is missing, the log ends at record 9"),
        (log_report(0), "the log is empty"),
        (log_report(9, first=6), "lost records"),
        (log_report(6 + LEAST_ROTATED, first=6), ""),
        (None, "no longer reports"),
        ({"seq": "many"}, "no longer reports"),
    ],
)
def test_the_reported_log_is_compared_with_known_heads(reported: object, words: str) -> None:
    problem = problem_in([head(5)], reported)

    assert words in problem and bool(problem) == bool(words)
    assert problem_in([], reported) == ""
