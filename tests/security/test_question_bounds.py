"""A question cannot block a host: parsing is bounded and happens off the event loop."""

from __future__ import annotations

import time

import anyio
import anyio.lowlevel
import pytest

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.core.settings import load
from anvyl_mcp.evaluation.acts.world import World
from anvyl_mcp.evaluation.simulation import Simulation
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.question import MOST_CHARACTERS, Question
from tests.support.hosts.http_node import HttpNode

PIECES = (
    ",", ";", ", ", " ", "a, ", "'", "' ", '"', "1", "a", ".", "- ", " - ", "a-", "a/", ": ", "? ", "\n.",
    "stop web and ", "and ", "then ", "the ", "it ", "not ", "why is ", "how much ", "on nas ", "last 5 ", "1s ",
    "with ", "--tail ", "x=y, ", "'a' ", "take it ", "please ", "i need to ", "docker ", "exec ", "in ",
)  # fmt: skip
"""Repetitions of these are slow for backtracking patterns and nested loops."""
PROMISED = 0.05
SLOW_MACHINE = 6
BUSY_MACHINE = 20
"""Factor for a busy machine. Before the limit, the commas took 12 s."""


def long(piece: str) -> str:
    return (piece * MOST_CHARACTERS)[: MOST_CHARACTERS - 1] + "x"


async def test_no_repetition_takes_long_to_parse() -> None:
    simulation = Simulation(World.patched({}), load_catalogue(load().cache_dir))
    assistant = Assistant(simulation.fleet, load())
    await assistant.ask(Question("list containers"), offline=True)
    slow = {}
    for piece in PIECES:
        began = time.process_time()
        reply = await assistant.ask(Question(long(piece)), offline=True)
        if (took := time.process_time() - began) > PROMISED * SLOW_MACHINE:
            slow[piece] = took
        assert not reply.proposals, piece
    await simulation.fleet.aclose()

    assert not slow


@pytest.mark.parametrize("said", ["stop web and " * 300, "list containers " + "very " * 200], ids=["clauses", "words"])
async def test_a_question_too_long_for_the_rules_is_refused_with_the_reason(said: str) -> None:
    simulation = Simulation(World.patched({}), load_catalogue(load().cache_dir))

    reply = await Assistant(simulation.fleet, load()).ask(Question(said[: MOST_CHARACTERS - 1]), offline=True)
    await simulation.fleet.aclose()

    assert isinstance(reply.error, NotUnderstood) and "too long" in str(reply.error)


async def test_health_answers_while_such_questions_are_parsed(http_node: HttpNode) -> None:
    await http_node.request("read", "/agent/process", {"query": "list containers"})
    waits: list[float] = []

    async with anyio.create_task_group() as group:
        for said in (long(","), "stop web and " * 300, *(f"{'last logs of it not ' * 20}{end}" for end in "abcdefgh")):
            group.start_soon(http_node.request, "read", "/agent/process", {"query": said})
        for _ in range(20):
            began = time.monotonic()
            answer = await http_node.request("anonymous", "/health", method="GET")
            waits.append(time.monotonic() - began)
            assert answer.status_code == 200
            await anyio.lowlevel.checkpoint()

    assert max(waits) < 0.1 * BUSY_MACHINE


async def test_preparing_a_model_request_does_not_block_the_event_loop(http_node: HttpNode) -> None:
    """Each question read the certificates of the system on the loop, 40 ms for each of those that came together.

    The processor time of the loop's own thread is measured, which other programs of the machine do not add to.
    """
    await http_node.request("read", "/agent/process", {"query": "list containers"})
    turns: list[float] = []

    async def turning() -> None:
        while True:
            began = time.thread_time()
            await anyio.lowlevel.checkpoint()
            turns.append(time.thread_time() - began)

    async with anyio.create_task_group() as watching:
        watching.start_soon(turning)
        async with anyio.create_task_group() as asking:
            for _ in range(10):
                asking.start_soon(http_node.request, "read", "/agent/process", {"query": long(",")})
        watching.cancel_scope.cancel()

    assert max(turns) < 0.1
