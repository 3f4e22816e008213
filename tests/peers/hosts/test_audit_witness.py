"""A tail cut off an audit log, or a log written anew, is noticed by the machines that saw more of it."""

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
    # A host without an engine is not well, whatever its log says.
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
    """Take the last records away, without a trace in that folder."""
    lines = (folder / LOG).read_bytes().splitlines(keepends=True)[:-records]
    (folder / LOG).write_bytes(b"".join(lines))
    last = json.loads(lines[-1])
    end = End(last["seq"], last["hash"], size=sum(map(len, lines)))
    (folder / HEAD).write_bytes(end.pack())


def write_anew(folder: Path) -> None:
    """The same log with another story, whole in itself."""
    lines = [json.loads(line) for line in (folder / LOG).read_bytes().splitlines()]
    for name in (LOG, HEAD):
        (folder / name).unlink()
    with closing(Audit(folder)) as audit:
        for _ in lines:
            audit.end(audit.begin("list_images", {}, who="nobody", how="token", changes=False), "ok")
    assert audit.verify().problem == ""


def test_a_tail_that_was_cut_off_is_noticed_also_when_the_log_grew_since(nas: ServingNode) -> None:
    write_hosts_file("nas", nas.url)
    looked(4)
    assert checked().code == 0
    cut(nas.home / "audit", 2)
    looked(4)

    told = checked()

    assert told.code == 1
    assert "its audit log" in status(told) and "this machine has seen" in status(told)
    assert "--accept-audit nas" in told.err or "--accept-audit nas" in told.json["hosts"]["nas"]["hint"]
    assert checked("--accept-audit", "nas").code == 0
    assert checked().code == 0


def test_a_log_that_ends_too_early_is_told_by_what_is_missing(nas: ServingNode, tmp_path: Path) -> None:
    write_hosts_file("nas", nas.url)
    looked(2)
    cut(nas.home / "audit", 1)

    with FakeEngine(tmp_path / "engine.sock") as engine:
        told = anvyl("hosts", "check", DOCKER_HOST=engine.url)

    assert told.code == 3, "this host is well"
    assert "lost records that this machine has seen" in told.out and "--accept-audit nas" in told.err


def test_a_log_written_anew_is_noticed(nas: ServingNode) -> None:
    write_hosts_file("nas", nas.url)
    looked(2)
    write_anew(nas.home / "audit")

    told = checked()

    assert told.code == 1 and "was rewritten" in status(told)


def test_a_host_set_up_anew_is_taken_as_it_is_when_a_person_says_so(nas: ServingNode) -> None:
    write_hosts_file("nas", nas.url)
    looked(2)
    for name in (LOG, HEAD):
        (nas.home / "audit" / name).unlink()

    told = checked()

    assert told.code == 1 and "the log is empty" in status(told)
    assert checked("--accept-audit", "nas").code == 0
    looked()
    assert checked().code == 0


def test_a_host_that_never_audited_is_well(tmp_path: Path) -> None:
    with (
        FakeEngine(tmp_path / "engine.sock") as engine,
        running_node("nas", tmp_path / "fresh", DOCKER_HOST=engine.url) as node,
    ):
        write_hosts_file("nas", node.url)
        assert checked().code == 0
        assert not load().heads_file.exists()


def test_a_host_that_is_removed_is_forgotten(nas: ServingNode) -> None:
    write_hosts_file("nas", nas.url)
    looked()
    assert seen()

    assert anvyl("hosts", "remove", "nas").code == 0

    assert "nas" not in load().heads_file.read_text(encoding="utf-8")


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "sdk"])
async def test_every_way_to_a_host_remembers_where_its_log_ends(nas: ServingNode, lean: bool) -> None:
    write_hosts_file("nas", nas.url)
    async with open_node(load(), lean=lean) as node:
        for host in ("nas", node.local.name):
            assert (await node.fleet.call(host, "list_processes", {"limit": 1})).ok
        own = node.local.name
        [last] = node.state.audit.read(limit=1)

    assert seen()[-1][0] > 0
    assert seen(own)[-1] == [last.seq, last.hash]


def test_only_who_may_read_learns_where_the_log_ends(tmp_path: Path) -> None:
    with closing(Audit(tmp_path / "audit")) as audit:
        changes = Changes(audit, Journal(tmp_path / "operations"), Observer(None))
        gate = Gate(audit, Limits(), Policy(tmp_path / "policy.toml"), changes)
        assert gate.response_meta(LOCAL) == {}
        audit.end(audit.begin("list_images", {}, who="x", how="token", changes=False), "ok")
        assert gate.response_meta(LOCAL)[protocol_keys.HEAD]["seq"] == 1
        assert protocol_keys.HEAD not in gate.response_meta(Caller("nobody", frozenset(), "token"))


# What is remembered.


def head(seq: int) -> AuditHead:
    return AuditHead(seq, f"{seq:064x}")


@pytest.fixture
def heads(tmp_path: Path) -> HeadStore:
    return HeadStore(tmp_path / "heads.json")


def test_ends_are_kept_near_together_at_the_end_and_far_apart_before(heads: HeadStore) -> None:
    for seq in range(1, 301):
        heads.note("nas", "", head(seq))
        heads.flush()

    kept = [one.seq for one in heads.of("nas", "")]

    assert len(kept) == MOST_HEADS and kept[-1] == 300 and kept[-2] > 295 and kept[0] == 1
    assert any(100 < seq < 295 for seq in kept)


def test_nothing_is_written_when_nothing_is_new(heads: HeadStore, tmp_path: Path) -> None:
    assert heads.note("nas", "", head(5))
    heads.flush()
    before = (tmp_path / "heads.json").stat()

    assert not heads.note("nas", "", head(5)) and not heads.note("nas", "", head(4))
    heads.flush()

    assert (tmp_path / "heads.json").stat().st_ino == before.st_ino


def test_what_is_new_is_written_once_a_second_and_at_the_end(heads: HeadStore) -> None:
    assert heads.note("nas", "", head(1))
    heads.flush()

    assert not heads.note("nas", "", head(2)), "too soon"
    assert [one.seq for one in heads.of("nas", "")] == [1, 2]


def test_programs_share_the_file(heads: HeadStore, tmp_path: Path) -> None:
    other = HeadStore(tmp_path / "heads.json")
    heads.note("nas", "", head(1))
    other.note("nas", "", head(2))
    other.note("gpu", "", head(7))
    heads.flush()
    other.flush()

    assert [one.seq for one in heads.of("nas", "")] == [1, 2]
    assert [one.seq for one in heads.of("gpu", "")] == [7]


def test_a_host_at_another_address_is_another_host(heads: HeadStore) -> None:
    heads.note("nas", "https://a", head(9))
    heads.flush()
    assert heads.of("nas", "https://b") == []
    heads.note("nas", "https://b", head(1))

    assert heads.of("nas", "https://b") == [head(1)]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 2}', b'{"version": 1, "hosts": {"a": 1}}', b"\xff"]
)
def test_a_damaged_file_is_kept_aside(
    heads: HeadStore, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "heads.json").write_bytes(content)

    assert heads.of("nas", "") == []

    [kept] = tmp_path.glob("heads.json.bad-*")
    assert kept.read_bytes() == content and kept.name in caplog.text
    heads.note("nas", "", head(1))
    assert heads.of("nas", "") == [head(1)]


def test_a_file_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    heads = HeadStore(tmp_path / "file" / "heads.json")

    assert heads.note("nas", "", head(1))
    heads.flush()
    heads.forget("nas")


@pytest.mark.parametrize(
    "told",
    [
        *[None, 5, "x", [], {}, {"seq": 1}, {"seq": "1", "hash": "0" * 64}, {"seq": True, "hash": "0" * 64}],
        *[{"seq": 0, "hash": "0" * 64}, {"seq": 2**60, "hash": "0" * 64}, {"seq": 1, "hash": "0" * 63}],
        *[{"seq": 1, "hash": "\x1b[2J" + "0" * 60}, {"seq": 1, "hash": ["0" * 64]}],
    ],
    ids=str,
)
def test_a_head_of_another_form_is_none(told: object) -> None:
    assert ToolAnswer.from_mcp({"content": [], "_meta": {protocol_keys.HEAD: told}}).head is None


def witness(seq: int, first: int = 1, **at: str) -> Mapping[str, Any]:
    return {"seq": seq, "hash": "0" * 64, "first": first, "at": {name[1:]: value for name, value in at.items()}}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (witness(9, _5=head(5).hash), ""),
        (witness(9, _5="f" * 64), "was rewritten"),
        (witness(9), "record 5 is missing, the log ends at record 9"),
        (witness(0), "the log is empty"),
        (witness(9, first=6), "lost records"),
        (witness(6 + LEAST_ROTATED, first=6), ""),
        (None, "does not tell"),
        ({"seq": "many"}, "does not tell"),
    ],
)
def test_what_a_host_tells_is_compared_with_what_was_seen(told: object, words: str) -> None:
    problem = problem_in([head(5)], told)

    assert words in problem and bool(problem) == bool(words)
    assert problem_in([], told) == ""
