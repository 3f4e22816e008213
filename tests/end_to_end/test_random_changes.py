"""Random changes on three real hosts while their network and servers fail; reported outcomes must be true.

After Jepsen: every operation leaves its mark on the container it was made to, so that the number of its executions can
be counted there. Reported outcomes are compared with the marks and with the hosts' audit logs.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

import anyio
import anyio.to_thread
import pytest
from docker.errors import NotFound
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from tests.support.hosts.lab import PORT, Lab, LabHost
from tests.support.hosts.restartable import assert_consistent

STARTS = """echo s >> /starts; trap 'exit 0' TERM; sleep 3600 & wait"""
STATES = {"start_container": "running", "restart_container": "running", "stop_container": "exited"}
NOTHING = frozenset({"denied", "conflict", "not_found", "busy", "refused", "unreachable"})
"""Error codes that mean that nothing was changed."""


@dataclass(frozen=True)
class Fault:
    """A fault of a host, and how to undo it."""

    begin: Callable[[LabHost], object]
    end: Callable[[LabHost], object]


def kill(host: LabHost) -> None:
    host.node.kill()


def start(host: LabHost) -> None:
    host.node.start(PORT)


FAULTS = {
    "nothing": Fault(lambda host: None, lambda host: None),
    "partition": Fault(LabHost.partition, LabHost.heal),
    "blackhole": Fault(LabHost.blackhole, LabHost.heal),
    "reject": Fault(LabHost.reject, LabHost.heal),
    "cut": Fault(LabHost.cut, lambda host: None),
    "lose": Fault(partial(LabHost.lose, percent=40), LabHost.heal),
    "kill": Fault(kill, start),
    "hang": Fault(lambda host: host.node.suspend(), lambda host: host.node.resume()),
    "hung engine": Fault(lambda host: host.engine.hang(), lambda host: host.engine.resume()),
}

# Faults that make callers retry are more frequent.
FAULT = st.sampled_from([*FAULTS, "cut", "cut", "cut"])
HOSTS = st.integers(0, 2)
SECONDS = st.floats(0, 0.8)


class History(RuleBasedStateMachine):
    """Hypothesis state machine: one fleet and the changes made to it."""

    lab: Lab

    def __init__(self) -> None:
        super().__init__()
        self._marks = count(1)
        self._starts = {host.name: (1, 1) for host in self.lab.hosts}

    @initialize()
    def make(self) -> None:
        self.lab.restore()
        for host in self.lab.hosts:
            for name, labels in (("web", {}), ("safe", {"anvyl.protect": "true"})):
                host.engine.run(name, ["sh", "-c", STARTS], labels=labels)

    @rule(at=HOSTS, name=st.sampled_from(["web", "web", "safe"]), fault=FAULT, wait=SECONDS)
    def run_a_command(self, at: int, name: str, fault: str, wait: float) -> None:
        host, mark = self.lab.hosts[at], f"m{next(self._marks)}"
        arguments = {"name": name, "command": f"sh -c 'echo {mark} >> /marks; sleep 0.3'", "timeout": 2}
        [outcome] = self._during(host, fault, wait, "exec_in_container", [arguments])

        marks = _lines(host, name, "/marks")
        assert marks.count(mark) <= 1, outcome
        assert not outcome.ok or mark in marks, outcome
        if name == "safe" or _code(outcome) in NOTHING:
            assert mark not in marks and not outcome.ok, outcome

    @rule(at=HOSTS, tool=st.sampled_from(list(STATES)), fault=FAULT, wait=SECONDS)
    def change(self, at: int, tool: str, fault: str, wait: float) -> None:
        host = self.lab.hosts[at]
        before = host.engine.state("web")
        [outcome] = self._during(host, fault, wait, tool, [{"name": "web"}])

        assert not outcome.ok or host.engine.state("web") == STATES[tool], outcome
        assert _code(outcome) not in NOTHING or host.engine.state("web") == before, outcome
        self._count(host, tool, before or "", [outcome])

    @rule(at=HOSTS, tools=st.lists(st.sampled_from(list(STATES)), min_size=2, max_size=2, unique=True), wait=SECONDS)
    def two_at_once(self, at: int, tools: list[str], wait: float) -> None:
        host = self.lab.hosts[at]
        before = host.engine.state("web")
        outcomes = self._during(host, "nothing", wait, tools[0], [{"name": "web"}], tools[1])

        # A host may limit the rate of the hub.
        assert all(outcome.ok or _code(outcome) == "busy" for outcome in outcomes), outcomes
        ends: set[str | None] = {STATES[outcome.tool] for outcome in outcomes if outcome.ok} or {before}
        assert host.engine.state("web") in ends, outcomes
        for outcome in outcomes:
            self._count(host, outcome.tool, "", [outcome])

    def teardown(self) -> None:
        for host in self.lab.hosts:
            if host.engine.state("web") is None:
                continue
            least, most = self._starts[host.name]
            assert least <= len(_lines(host, "web", "/starts")) <= most
            if (host.node.home / "operations").exists():
                assert_consistent(host.node.home)

    def _count(self, host: LabHost, tool: str, before: str, outcomes: list[Outcome]) -> None:
        """Update the minimum and maximum number of container starts."""
        least, most = self._starts[host.name]
        for outcome in outcomes:
            if tool == "stop_container" or _code(outcome) in NOTHING:
                continue
            certain = outcome.ok and (tool == "restart_container" or before == "exited")
            least, most = least + certain, most + 1
        self._starts[host.name] = least, most

    def _during(
        self, host: LabHost, fault: str, wait: float, tool: str, arguments: list[dict[str, object]], second: str = ""
    ) -> list[Outcome]:
        """Make one change, or two at once, during a temporary fault."""

        async def work(fleet: Fleet) -> list[Outcome]:
            outcomes: list[Outcome] = []

            async def call(name: str) -> None:
                outcomes.append(await fleet.call(host.name, name, arguments[0]))

            async with anyio.create_task_group() as group:
                for name in filter(None, (tool, second)):
                    group.start_soon(call, name)
                await anyio.sleep(wait)
                await anyio.to_thread.run_sync(FAULTS[fault].begin, host)
                await anyio.sleep(wait)
                await anyio.to_thread.run_sync(FAULTS[fault].end, host)
            if any(_code(outcome) == "unknown" for outcome in outcomes):
                # A call whose caller gave up may still be running.
                await anyio.sleep(1)
            return outcomes

        self.lab.forget()
        return self.lab.run(work, lean=wait < 0.4)


def _lines(host: LabHost, name: str, file: str) -> list[str]:
    """Lines of a file in a container, running or not."""
    try:
        pieces, _ = host.engine.api.get_archive(name, file)
    except NotFound:
        return []
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        opened = archive.extractfile(file.removeprefix("/"))
        assert opened is not None
        return opened.read().decode().split()


def _code(outcome: Outcome) -> str:
    return outcome.error.code if outcome.error is not None else ""


@pytest.mark.parametrize(
    ("examples", "steps"), [(2, 10), pytest.param(40, 15, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_reported_outcomes_match_what_happened(lab: Lab, examples: int, steps: int) -> None:
    machine = type("OfThisLab", (History,), {"lab": lab})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=examples < 10,
            database=None,
            phases=[Phase.generate] if examples < 10 else [Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
