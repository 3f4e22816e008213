"""Hosts of another version: relevant differences are reported, and unknown tools need `--trust-tools`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anvyl_mcp import __version__
from anvyl_mcp.core.errors import InvalidInput, Unreachable
from anvyl_mcp.peers.connection.listing import ToolAnswer, ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.fleet.version_skew import compare_tools, difference
from anvyl_mcp.peers.hosts.registry import Peer, Registry
from tests.support.hosts.nodes import anvyl
from tests.support.stubs import StubConnection
from tests.support.toy_server import ToyServer, ToyTools, serve_toy

LOOK = ToolListing(
    "look",
    "Look.",
    {"properties": {"name": {"type": "string"}, "limit": {"type": "integer", "description": "how many"}}},
    {"type": "object", "properties": {"rows": {"type": "array"}}, "required": ["rows"]},
    safety="reads",
)
WITHOUT_LIMIT = replace(LOOK, input_schema={"properties": {"name": {"type": "string"}}})


class Older(StubConnection):
    """A host with a scripted `look` tool."""

    def __init__(self, answer: ToolAnswer, listed: ToolListing) -> None:
        self.answer, self.listed = answer, listed

    async def list_tools(self) -> list[ToolListing]:
        return [self.listed]

    async def version(self) -> str:
        return "0.0.9"

    async def call(self, tool: str, arguments: Mapping[str, Any], **options: Any) -> ToolAnswer:
        return self.answer


def fleet_with(host: Older, folder: Path) -> Fleet:
    registry = Registry(folder / "fleet.toml")
    registry.add(Peer("nas", "http://127.0.0.1:4299"))
    return Fleet(Peer("here", "memory:"), registry, {"look": LOOK}, lambda peer: host)


async def test_a_rejected_call_names_the_version_difference(tmp_path: Path) -> None:
    refused = ToolAnswer(error=InvalidInput("`look` has no argument `limit`"))
    async with aclosing(fleet_with(Older(refused, WITHOUT_LIMIT), tmp_path)) as fleet:
        error = (await fleet.call("nas", "look", {"limit": 3})).error

    assert isinstance(error, InvalidInput)
    assert error.message.endswith("it has another version of `look`, which does not know `limit`")
    assert error.hint == f"it runs 0.0.9, this is {__version__}: update the older one"


async def test_a_mismatching_answer_names_the_version_difference(tmp_path: Path) -> None:
    odd = replace(LOOK, output_schema={"type": "object", "properties": {}})
    async with aclosing(fleet_with(Older(ToolAnswer(result={}), odd), tmp_path)) as fleet:
        error = (await fleet.call("nas", "look", {})).error

    assert isinstance(error, Unreachable)
    assert (
        "does not match the tool's schema; it has another version of `look`, which answers in another form"
        in error.message
    )


async def test_a_rejection_by_the_same_version_is_unchanged(tmp_path: Path) -> None:
    refused = InvalidInput("`limit` is 0, which is too few")
    async with aclosing(fleet_with(Older(ToolAnswer(error=refused), LOOK), tmp_path)) as fleet:
        assert (await fleet.call("nas", "look", {"limit": 0})).error is refused


@pytest.mark.parametrize(
    ("theirs", "how"),
    [
        (LOOK, ""),
        (replace(LOOK, description="Other words."), ""),
        (replace(LOOK, input_schema={"properties": dict(reversed(list(LOOK.arguments.items())))}), ""),
        (WITHOUT_LIMIT, "does not know `limit`"),
        (replace(LOOK, input_schema={"properties": {**LOOK.arguments, "all": {}}}), "also takes `all`"),
        (
            replace(LOOK, input_schema={"properties": {**LOOK.arguments, "limit": {"type": "string"}}}),
            "takes its arguments in another form",
        ),
        (replace(WITHOUT_LIMIT, output_schema={}), "does not know `limit` and answers in another form"),
    ],
    ids=["same", "words", "order", "fewer", "more", "type", "both"],
)
def test_only_incompatible_schemas_are_a_difference(theirs: ToolListing, how: str) -> None:
    assert difference(LOOK, theirs) == how


def test_an_offer_lists_known_and_unknown_tools() -> None:
    foreign = replace(LOOK, name="mine\x1b[2J")

    found = compare_tools({"look": LOOK, "start": replace(LOOK, name="start")}, [WITHOUT_LIMIT, foreign])

    assert found.known == ("look",)
    assert found.differing == {"look": "does not know `limit`"}
    assert found.foreign == ("mine",)


@pytest.fixture
def toy() -> Iterator[ToyServer]:
    with serve_toy(ToyTools()) as host:
        yield host


def test_a_check_names_unknown_tools(toy: ToyServer) -> None:
    anvyl("hosts", "add", "toy", toy.url)

    result, document = anvyl("hosts", "check", "toy"), anvyl("hosts", "check", "toy", "--json")

    assert "toy: offers tools that are unknown here: bewildering, crash, echo" in result.err
    assert "echo" in document.json["hosts"]["toy"]["unknown_tools"]
    assert document.json["hosts"]["toy"]["skew"] == {}


def test_an_unknown_tool_can_be_called_only_on_hosts_with_trusted_tools(toy: ToyServer) -> None:
    anvyl("hosts", "add", "toy", toy.url)
    refused = anvyl("call", "note", "--host", "toy")
    anvyl("hosts", "remove", "toy")
    anvyl("hosts", "add", "toy", toy.url, "--trust-tools")
    called = anvyl("call", "note", "--host", "toy", "--yes")

    assert (refused.code, "there is no tool `note`" in refused.err) == (2, True)
    assert called.code == 0, called.err
    assert "only" in called.out
