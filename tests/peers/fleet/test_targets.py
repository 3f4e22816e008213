"""Resolving the hosts of a call, and parsing typed arguments, as tables over the real catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.errors import (
    AnvylError,
    ApprovalNeeded,
    Conflict,
    InvalidInput,
    NotFound,
    Refused,
    Unreachable,
)
from anvyl_mcp.core.settings import load
from anvyl_mcp.peers.changes.argument_check import check, parse_words
from anvyl_mcp.peers.connection.listing import Connection, ProgressCallback, ToolAnswer, ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.fleet.targets import hosts_by_name, resolve_targets
from anvyl_mcp.peers.hosts.registry import Peer, Registry
from tests.support.stubs import StubConnection

WEB = ("web", "aaaa11112222")
DB = ("db", "bbbb11112222")


class Host(StubConnection):
    """A host with some containers, or one that cannot be reached."""

    def __init__(self, *containers: tuple[str, str], error: AnvylError | None = None) -> None:
        self.containers = [{"name": name, "id": number} for name, number in containers]
        self.error = error
        self.calls: list[str] = []

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        seconds: float,
        meta: Mapping[str, Any] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> ToolAnswer:
        self.calls.append(tool)
        if self.error:
            raise self.error
        about = {"image": "x", "state": "running", "status": "Up", "health": "", "ports": [], "created": ""}
        rows = [{**about, **one} for one in self.containers]
        return ToolAnswer(result={"containers": rows, "total": len(self.containers), "more": 0})


def refusing() -> Host:
    return Host(error=Refused("connection refused"))


@pytest.fixture
def tools() -> Mapping[str, ToolListing]:
    return Node(load()).fleet.catalogue


def fleet_of(tools: Mapping[str, ToolListing], folder: Path, **hosts: Host) -> Fleet:
    """A fleet of these hosts; the first is this one. `web1` has the tags `web` and `old`, every peer has `far`."""
    registry = Registry(folder / "fleet.toml")
    first, *others = hosts
    for number, name in enumerate(others):
        tags = ("far", "web", "Old") if name == "web1" else ("far",)
        registry.add(Peer(name, f"http://127.0.0.1:{4210 + number}", tags))

    def connect(peer: Peer) -> Connection:
        return hosts[peer.name]

    return Fleet(Peer(first, "memory:"), registry, tools, connect)


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ("nas", ["nas"]),
        ("NAS", ["nas"]),
        (" nas , web1 ", ["nas", "web1"]),
        ("web1,nas", ["web1", "nas"]),
        ("nas and web1", ["nas", "web1"]),
        ("nas,nas", ["nas"]),
        ("nas,,web1,", ["nas", "web1"]),
        ("local", ["here"]),
        ("here", ["here"]),
        ("all", ["here", "nas", "web1"]),
        ("ALL", ["here", "nas", "web1"]),
        ("*", ["here", "nas", "web1"]),
        ("@web", ["web1"]),
        ("@old", ["web1"]),
        ("@FAR", ["nas", "web1"]),
        ("@web,local,all", ["web1", "here", "nas"]),
    ],
)
def test_selectors_resolve_to_hosts(
    selector: str, chosen: list[str], tools: Mapping[str, ToolListing], tmp_path: Path
) -> None:
    fleet = fleet_of(tools, tmp_path, here=Host(), nas=Host(), web1=Host())

    assert fleet.select(selector) == chosen


@pytest.mark.parametrize(
    ("selector", "code", "says", "hint"),
    [
        ("nsa", "unknown_host", "there is no host `nsa`", "did you mean `nas`?"),
        ("nas,web2", "unknown_host", "there is no host `web2`", "did you mean `web1`?"),
        ("@wbe", "unknown_host", "there is no host `@wbe`", "did you mean `@web`?"),
        ("@", "unknown_host", "there is no host `@`", "`@far`"),
        (",", "invalid_input", "no host given", "`here`, `nas`"),
        (" ", "invalid_input", "no host given", "or all"),
    ],
)
def test_an_unknown_selector_is_rejected(
    selector: str, code: str, says: str, hint: str, tools: Mapping[str, ToolListing], tmp_path: Path
) -> None:
    fleet = fleet_of(tools, tmp_path, here=Host(), nas=Host(), web1=Host())

    with pytest.raises(AnvylError) as refused:
        fleet.select(selector)

    assert (refused.value.code, refused.value.message) == (code, says)
    assert hint in refused.value.hint


STOP: dict[str, Any] = {"name": "web"}


@pytest.mark.parametrize(
    ("tool", "arguments", "selector", "chosen"),
    [
        ("list_containers", {}, "", ["here", "nas", "web1"]),
        ("list_containers", {}, "nas", ["nas"]),
        ("list_containers", {"name": "web"}, "", ["here", "nas", "web1"]),
        ("get_host_info", {}, "", ["here", "nas", "web1"]),
        ("list_hosts", {}, "all", ["here"]),
        ("stop_container", STOP, "", ["nas"]),
        ("stop_container", STOP, "local", ["here"]),
        ("stop_container", STOP, "all", ["here", "nas", "web1"]),
        ("stop_container", {"name": "aaaa"}, "", ["nas"]),
        ("stop_container", {"name": "aaaa1111222233334444"}, "", ["nas"]),
        ("get_container_logs", {"name": "db"}, "", ["here", "web1"]),
        ("create_container", {"image": "busybox"}, "nas", ["nas"]),
        ("execute_command", {"command": "ls"}, "@web", ["web1"]),
    ],
)
async def test_a_call_goes_to_the_right_hosts(
    tool: str,
    arguments: dict[str, Any],
    selector: str,
    chosen: list[str],
    tools: Mapping[str, ToolListing],
    tmp_path: Path,
) -> None:
    """Reads go everywhere, or where the named container lives; changes to the one host that has it."""
    fleet = fleet_of(tools, tmp_path, here=Host(DB), nas=Host(WEB), web1=Host(DB))

    assert await resolve_targets(fleet, tools[tool], arguments, selector) == chosen


@pytest.mark.parametrize(
    ("tool", "arguments", "kind", "says", "hint"),
    [
        ("stop_container", {"name": "db"}, Conflict, "both here and web1 have a container `db`", "--host here"),
        ("stop_container", {"name": "wbe"}, NotFound, "no host has a container `wbe`", "did you mean `web`?"),
        ("get_container_info", {"name": "wbe"}, NotFound, "no host has a container `wbe`", "did you mean `web`?"),
        ("stop_container", {"name": "aaa"}, NotFound, "no host has a container `aaa`", "`db`, `web`"),
        ("create_container", {"image": "x"}, InvalidInput, "`create_container` needs a host", "--host here"),
        ("execute_command", {"command": "ls"}, InvalidInput, "needs a host: there are here, nas and web1", "--host"),
    ],
)
async def test_an_ambiguous_call_is_not_made(
    tool: str,
    arguments: dict[str, Any],
    kind: type[AnvylError],
    says: str,
    hint: str,
    tools: Mapping[str, ToolListing],
    tmp_path: Path,
) -> None:
    fleet = fleet_of(tools, tmp_path, here=Host(DB), nas=Host(WEB), web1=Host(DB))

    with pytest.raises(kind) as refused:
        await resolve_targets(fleet, tools[tool], arguments)

    assert says in refused.value.message
    assert hint in refused.value.hint


async def test_three_hosts_with_the_container_are_all_named(tools: Mapping[str, ToolListing], tmp_path: Path) -> None:
    fleet = fleet_of(tools, tmp_path, here=Host(WEB), nas=Host(WEB), web1=Host(WEB))

    with pytest.raises(Conflict, match="here, nas and web1 all have a container `web`"):
        await resolve_targets(fleet, tools["stop_container"], STOP)


async def test_a_change_needs_approval_if_a_host_did_not_answer(
    tools: Mapping[str, ToolListing], tmp_path: Path
) -> None:
    fleet = fleet_of(tools, tmp_path, here=Host(WEB), nas=refusing())

    with pytest.raises(ApprovalNeeded) as waits:
        await resolve_targets(fleet, tools["stop_container"], STOP)

    assert "nas could not be asked (connection refused), so it may be there too" in waits.value.message
    assert "--host here" in waits.value.hint
    assert await resolve_targets(fleet, tools["get_container_info"], STOP) == ["here"]
    assert await resolve_targets(fleet, tools["stop_container"], STOP, "here") == ["here"]


async def test_an_unknown_container_is_reported_with_the_hosts_that_did_not_answer(
    tools: Mapping[str, ToolListing], tmp_path: Path
) -> None:
    some = fleet_of(tools, tmp_path / "some", here=Host(DB), nas=refusing())
    none = fleet_of(tools, tmp_path / "none", here=refusing(), nas=refusing())

    with pytest.raises(NotFound, match="no host has a container `web`; nas could not be asked"):
        await resolve_targets(some, tools["stop_container"], STOP)
    with pytest.raises(Unreachable, match="no host could be asked: here could not be asked"):
        await resolve_targets(none, tools["stop_container"], STOP)


async def test_a_single_host_needs_no_lookup(tools: Mapping[str, ToolListing], tmp_path: Path) -> None:
    here = Host()
    fleet = fleet_of(tools, tmp_path, here=here)

    for tool in ("stop_container", "create_container", "list_containers"):
        assert await resolve_targets(fleet, tools[tool], STOP) == ["here"]
    assert here.calls == []


async def test_container_names_are_listed_without_hosts_that_are_down(
    tools: Mapping[str, ToolListing], tmp_path: Path
) -> None:
    fleet = fleet_of(tools, tmp_path, here=Host(WEB, DB), nas=Host(WEB), web1=refusing())

    assert sorted(await hosts_by_name(fleet, "container")) == ["db", "web"]


@pytest.mark.parametrize(
    ("tool", "words", "arguments"),
    [
        ("stop_container", "name=web", {"name": "web"}),
        ("stop_container", "web", {"name": "web"}),
        ("stop_container", "web timeout=5", {"name": "web", "timeout": 5}),
        ("stop_container", "timeout=-1 web", {"name": "web", "timeout": -1}),
        ("list_containers", "", {}),
        ("list_containers", "all=true", {"all": True}),
        ("list_containers", "all=YES name=", {"all": True, "name": ""}),
        ("list_containers", "all=0 label=a=b", {"all": False, "label": "a=b"}),
        ("create_container", "busybox ports=80:80 ports=443:443", {"image": "busybox", "ports": ["80:80", "443:443"]}),
        ("create_container", "image=a env=A=1", {"image": "a", "env": ["A=1"]}),
        ("get_container_logs", "web grep==", {"name": "web", "grep": "="}),
    ],
)
def test_words_are_parsed_as_arguments(
    tool: str, words: str, arguments: dict[str, Any], tools: Mapping[str, ToolListing]
) -> None:
    assert parse_words(tools[tool], words.split()) == arguments


def test_a_command_line_in_one_word_is_the_first_argument(tools: Mapping[str, ToolListing]) -> None:
    given = parse_words(tools["execute_command"], ["env A=1 ls", "timeout=5"])

    assert given == {"command": "env A=1 ls", "timeout": 5}


@pytest.mark.parametrize(
    ("tool", "words", "says", "hint"),
    [
        ("stop_container", "", "`stop_container` needs `name`", "add name=…"),
        ("stop_container", "nam=web", "`stop_container` has no argument `nam`", "did you mean `name`?"),
        ("stop_container", "web db", "`stop_container` has no argument `db`", "`name`"),
        ("stop_container", "name=web name=db", "`name` is given twice", "once"),
        ("stop_container", "web timeout=soon", "`timeout` is `soon`, which is not a whole number", "timeout=10"),
        ("stop_container", "web timeout=1.5", "`timeout` is `1.5`, which is not a whole number", "timeout=10"),
        ("stop_container", "web timeout=--5", "`timeout` is `--5`, which is not a whole number", "timeout=10"),
        ("stop_container", "web timeout=²", "`timeout` is `²`, which is not a whole number", "timeout=10"),
        ("stop_container", "web timeout=", "`timeout` is ``, which is not a whole number", "timeout=10"),
        ("list_containers", "all=perhaps", "`all` is `perhaps`, which is neither yes nor no", "all=true"),
        ("list_containers", "web", "`list_containers` has no argument `web`", "`all`"),
        ("get_host_info", "all=true", "`get_host_info` has no argument `all`", "it takes no arguments"),
    ],
)
def test_words_that_match_no_argument_are_rejected(
    tool: str, words: str, says: str, hint: str, tools: Mapping[str, ToolListing]
) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_words(tools[tool], words.split())

    assert refused.value.message == says
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({}, "needs `name`"), ({"name": "web", "forse": True}, "has no argument `forse`")],
)
def test_arguments_of_programs_are_checked(
    arguments: dict[str, Any], says: str, tools: Mapping[str, ToolListing]
) -> None:
    with pytest.raises(InvalidInput, match=says):
        check(tools["remove_container"], arguments)
