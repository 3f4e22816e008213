"""A change whose answer is lost is resent only if the host deduplicates operations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from anvyl_mcp.app.node import open_node
from anvyl_mcp.core.errors import AnvylError, Busy, Denied, Refused, Unknown, Unreachable
from anvyl_mcp.core.settings import load
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.peers.connection.listing import ToolAnswer, ToolListing
from anvyl_mcp.peers.fleet import unknown_outcome
from tests.support.engine.fake_engine import FakeContainer, FakeEngine
from tests.support.hosts.nodes import NO_MODEL, ServingNode, running_node, write_hosts_file

SCHEMA = {"properties": {"name": {"type": "string", "x-names": "container"}}}
STOP = ToolListing("stop_container", "Stop it.", SCHEMA, safety="changes", once=True)
OLDER = ToolListing("stop_container", "Stop it.", SCHEMA, safety="changes")
LOST = Unknown("the connection was lost before the answer came; it may or may not have happened")
DONE = ToolAnswer(result={}, operation="op-1")


@pytest.fixture(scope="module")
def engine_of_far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path_factory.mktemp("engine") / "e.sock") as started:
        yield started


@pytest.fixture
def fake(engine_of_far: FakeEngine) -> Iterator[FakeEngine]:
    yield engine_of_far
    engine_of_far.containers.clear()
    engine_of_far.requests.clear()
    engine_of_far.faults.clear()


@pytest.fixture(scope="module")
def far(engine_of_far: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    home = tmp_path_factory.mktemp("far")
    with running_node("far", home, DOCKER_HOST=engine_of_far.url, ANVYL_LMSTUDIO_URL=NO_MODEL) as node:
        yield node


@asynccontextmanager
async def losing(port: int, times: int) -> AsyncIterator[str]:
    """Return the URL of a proxy that forwards changes but cuts the connection instead of the first answers."""
    left = times

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: list[bool]) -> None:
        nonlocal left
        while data := await reader.read(65536):
            if b'"tools/call"' in data and b"_container" in data:
                answers.append(left > 0)
                left -= 1
            writer.write(data)
            await writer.drain()
        writer.close()

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: list[bool]) -> None:
        while data := await reader.read(65536):
            if answers and answers.pop():
                break
            writer.write(data)
        writer.transport.abort()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection("127.0.0.1", port)
        answers: list[bool] = []
        there_and_back = relay(reader, onward, answers=answers), back(there, writer, answers=answers)
        await asyncio.gather(*there_and_back, return_exceptions=True)
        onward.transport.abort()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "official"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_change_whose_answer_was_lost_is_made_once_and_its_result_returned(
    lean: bool, times: int, far: ServingNode, fake: FakeEngine
) -> None:
    web = fake.add("web")
    async with losing(far.port, times) as url:
        write_hosts_file("far", url)
        async with open_node(load(), lean=lean) as node:
            outcome = await node.fleet.call("far", "stop_container", {"name": "web"})

    assert outcome.ok, outcome.error
    assert outcome.answer.result is not None and outcome.answer.result["state"] == "exited"
    assert web.changes == 1


async def test_a_change_without_an_engine_answer_is_unknown_and_not_repeated(
    far: ServingNode, fake: FakeEngine
) -> None:
    """Fault table, row 12: both answers are lost, the engine's and the host's."""
    web = fake.add("web")
    fake.fault("POST /containers/.*/stop", "lost", times=1)
    async with losing(far.port, 1) as url:
        write_hosts_file("far", url)
        async with open_node(load(), lean=True) as node:
            outcome = await node.fleet.call("far", "stop_container", {"name": "web"})

    assert outcome.word == "unknown" and "container `web` is exited now" in outcome.status
    assert web.changes == 1


class Host:
    """A host with scripted answers to `list_tools` and to calls."""

    def __init__(self, listed: Sequence[ToolListing | AnvylError], answers: Sequence[ToolAnswer | AnvylError]) -> None:
        self._listed, self._answers = list(listed), list(answers)
        self.sent = 0

    async def list_tools(self) -> list[ToolListing]:
        said = self._listed.pop(0) if len(self._listed) > 1 else self._listed[0]
        if isinstance(said, AnvylError):
            raise said
        return [said]

    async def send(self, *, seconds: float) -> ToolAnswer:
        self.sent += 1
        said = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(said, AnvylError):
            raise said
        return said

    async def version(self) -> str:
        return "1"

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        seconds: float,
        meta: Mapping[str, Any] | None = None,
        on_progress: object = None,
    ) -> ToolAnswer:
        raise NotImplementedError

    async def close(self) -> None:
        return

    async def settle(self, seconds: float = 60) -> ToolAnswer:
        change = unknown_outcome.LostChange("nas", STOP, {"name": "web"}, "op-1")
        return await unknown_outcome.settle(self, change, LOST, self.send, seconds=seconds)


async def test_a_host_without_deduplication_is_not_asked_again() -> None:
    host = Host([OLDER], [DONE])
    with pytest.raises(Unknown, match=r"may or may not have happened \(operation op-1\)") as raised:
        await host.settle()
    assert host.sent == 0
    assert raised.value.hint == "check before you repeat it: anvyl info web --host nas"
    there = 'get_container_info(name="web", host="nas")'
    assert raised.value.for_tool_caller().hint == f"check before you repeat it: {there}"


async def test_a_dead_host_is_not_waited_for() -> None:
    """Fault table, row 7: the error comes at once."""
    host, began = Host([Refused("connection refused")], [DONE]), time.monotonic()
    with pytest.raises(Unknown):
        await host.settle()
    assert host.sent == 0 and time.monotonic() - began < unknown_outcome.SECONDS / 2


async def test_a_host_that_comes_back_in_time_is_asked() -> None:
    host = Host([Unreachable("no route"), Unreachable("no route"), STOP], [LOST, DONE])
    assert await host.settle() == DONE
    assert host.sent == 2


@pytest.mark.parametrize("said", [ToolAnswer(error=Denied("no")), ToolAnswer(error=Busy("later")), Busy("too often")])
async def test_a_rejected_retry_is_not_the_outcome(
    said: ToolAnswer | AnvylError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknown_outcome, "SECONDS", 0.3)
    host = Host([STOP], [said])
    with pytest.raises(Unknown, match="may or may not have happened"):
        await host.settle()
    assert host.sent > 1


@pytest.mark.parametrize("left", [0, -1])
async def test_a_call_without_remaining_time_is_not_retried(left: float) -> None:
    """Fault table, row 4: an unresponsive host costs at most the time limit of the call."""
    host = Host([STOP], [DONE])
    with pytest.raises(Unknown, match="may or may not"):
        await host.settle(seconds=left)
    assert host.sent == 0


@pytest.fixture
def web(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> FakeContainer:
    monkeypatch.setenv("DOCKER_HOST", fake.url)
    return fake.add("web")


def stops(fake: FakeEngine, web: FakeContainer) -> None:
    web.state = "exited"


def is_made_anew(fake: FakeEngine, web: FakeContainer) -> None:
    del fake.containers[web.id]
    fake.containers["f" * 64] = FakeContainer("web", "f" * 64)


def crashes(fake: FakeEngine, web: FakeContainer) -> None:
    web.state = "restarting"


@pytest.mark.parametrize(
    ("meanwhile", "words"),
    [
        (stops, "changed since planned: `web` was running, and is exited now"),
        (is_made_anew, "changed since planned: `web` is another container now"),
        (crashes, ""),
    ],
)
async def test_a_change_is_not_made_if_its_object_was_replaced(
    meanwhile: Callable[[FakeEngine, FakeContainer], None], words: str, web: FakeContainer, fake: FakeEngine
) -> None:
    async def slow_yes(proposal: Proposal) -> bool:
        meanwhile(fake, web)
        return True

    async with open_node(load()) as node:
        assistant = Assistant(node.fleet, load())
        reply = await assistant.ask(Question("restart web"), decide=slow_yes, offline=True)

    (call,) = reply.calls
    made = sum("/restart" in one for one in fake.requests)
    assert words in str(call.error) and made == (0 if words else 1), call
