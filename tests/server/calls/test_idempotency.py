"""A change runs at most once per operation id, with its object locked, and only on the object it was planned for."""

from __future__ import annotations

import json
import re
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.settings import load
from anvyl_mcp.peers.connection.listing import ToolAnswer
from anvyl_mcp.peers.connection.sdk_client import SdkClient
from anvyl_mcp.server.audit.log import Record
from anvyl_mcp.server.calls import dispatch, object_locks
from anvyl_mcp.server.calls.journal import FILE
from tests.support.engine.fake_engine import FakeContainer, FakeEngine

SECONDS = 20.0
STOP = "POST /containers/.*/stop"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "e.sock") as started:
        monkeypatch.setenv("DOCKER_HOST", started.url)
        yield started


@pytest.fixture
def web(fake: FakeEngine) -> FakeContainer:
    return fake.add("web")


@pytest.fixture
async def node(fake: FakeEngine) -> AsyncIterator[Node]:
    async with aclosing(Node(load(), serving=True)) as here:
        yield here


@pytest.fixture
async def host(node: Node) -> AsyncIterator[SdkClient]:
    session = SdkClient(node.server)
    yield session
    await session.close()


async def call(
    host: SdkClient, tool: str, operation: str = "", meta: dict[str, Any] | None = None, **arguments: Any
) -> ToolAnswer:
    meta = {**({protocol_keys.OPERATION: operation} if operation else {}), **(meta or {})}
    return await host.call(tool, arguments, seconds=SECONDS, meta=meta)


async def stop(
    host: SdkClient, operation: str = "", meta: dict[str, Any] | None = None, *, name: str = "web"
) -> ToolAnswer:
    return await call(host, "stop_container", operation, meta, name=name)


def records(node: Node, operation: str) -> tuple[int, list[str]]:
    """How often an operation began and how it ended, according to the audit log."""
    lines = (node.settings.state_dir / "audit" / "audit.jsonl").read_text(encoding="utf-8").splitlines()
    mine = [record for record in map(json.loads, lines) if record["operation"] == operation]
    ends = [record["outcome"] for record in mine if record["outcome"] != "started"]
    return len(mine) - len(ends), ends


def forget_ends(node: Node) -> None:
    """Remove all ends from the journal, as after a crash in the middle of every change."""
    with closing(sqlite3.connect(node.settings.state_dir / "operations" / FILE)) as journal, journal:
        journal.execute("UPDATE operations SET ending = NULL")


def code(answer: ToolAnswer) -> str:
    assert answer.error is not None, answer
    return answer.error.code


async def until_requested(fake: FakeEngine, text: str) -> None:
    """Wait until the engine received a request that contains `text`."""
    with anyio.fail_after(SECONDS):
        while not any(text in one for one in fake.requests):  # noqa: ASYNC110  the engine runs in threads
            await anyio.sleep(0.01)


async def test_a_repeat_gets_the_first_result_and_changes_nothing(
    host: SdkClient, node: Node, web: FakeContainer
) -> None:
    first, second = await stop(host, "op-1"), await stop(host, "op-1")

    assert first.ok and second.result == first.result and second.operation == first.operation == "op-1"
    assert web.changes == 1
    assert records(node, "op-1") == (1, ["ok"])


async def test_a_repeat_after_a_restart_gets_the_first_result(host: SdkClient, node: Node, web: FakeContainer) -> None:
    first = await stop(host, "op-1")
    async with aclosing(Node(load(), serving=True)) as again:
        session = SdkClient(again.server)
        second = await stop(session, "op-1")
        await session.close()

    assert second.ok and second.result == first.result and web.changes == 1 and records(node, "op-1") == (1, ["ok"])


async def test_a_repeat_gets_the_same_error(host: SdkClient, node: Node, web: FakeContainer, fake: FakeEngine) -> None:
    fake.fault(STOP, "409", times=1)
    first, second = await stop(host, "op-1"), await stop(host, "op-1")

    assert code(first) == code(second) == "conflict" and first.text == second.text
    assert web.changes == 0 and records(node, "op-1") == (1, ["failed"])


async def test_a_repeat_waits_for_the_running_operation(
    host: SdkClient, node: Node, web: FakeContainer, fake: FakeEngine
) -> None:
    fake.fault(STOP, "late")
    answers: list[ToolAnswer] = []

    async def one() -> None:
        answers.append(await stop(host, "op-1"))

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(one)
        await until_requested(fake, "/stop")
        group.start_soon(one)
        await anyio.sleep(0.05)
        assert answers == []
        fake.released.set()

    assert len(answers) == 3 and all(one.ok and one.result == answers[0].result for one in answers)
    assert web.changes == 1 and records(node, "op-1") == (1, ["ok"])


async def test_a_repeat_gets_the_result_of_an_abandoned_change(
    host: SdkClient, node: Node, web: FakeContainer, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "ABANDON_SECONDS", 0.05)
    monkeypatch.setattr(object_locks, "WAIT_SECONDS", 0.1)
    fake.fault(STOP, "late")
    async with anyio.create_task_group() as group:
        group.start_soon(stop, host, "op-1")
        await until_requested(fake, "/stop")
        group.cancel_scope.cancel()
    other = await stop(host, "op-2")
    fake.released.set()
    again = await stop(host, "op-1")

    assert again.ok and web.changes == 1 and records(node, "op-1") == (1, ["ok"])
    assert code(other) == "busy", "the object is locked until the abandoned change ends"


@pytest.mark.parametrize("changed", [{"name": "db"}, {"timeout": 3}], ids=["another object", "another argument"])
async def test_an_id_that_belongs_to_another_call_is_refused(
    changed: dict[str, Any], host: SdkClient, node: Node, web: FakeContainer, fake: FakeEngine
) -> None:
    db = fake.add("db")
    await stop(host, "op-1")
    refused = await call(host, "stop_container", "op-1", **{"name": "web", **changed})

    assert code(refused) == "conflict" and "belongs to another call" in refused.text
    assert (web.changes, db.changes) == (1, 0) and refused.operation == ""
    assert records(node, "op-1") == (1, ["ok"])
    assert [(one.outcome, one.error) for one in entries(node, "stop_container")] == [
        ("ok", None),
        ("failed", "conflict"),
    ]


async def test_an_id_that_belongs_to_another_caller_is_refused(host: SdkClient, node: Node, web: FakeContainer) -> None:
    await stop(host, "op-1")
    behalf = {protocol_keys.SCOPES: ["read", "operate"], protocol_keys.FOR: "anna"}
    refused = await stop(host, "op-1", behalf)

    assert code(refused) == "conflict" and web.changes == 1


@pytest.mark.parametrize("operation", [7, "x" * 101, "one\x1b[2Jtwo", ["op-1"]])
async def test_a_malformed_operation_id_is_refused(operation: Any, host: SdkClient, web: FakeContainer) -> None:
    refused = await stop(host, meta={protocol_keys.OPERATION: operation})

    assert code(refused) == "invalid_input" and web.changes == 0


async def test_a_call_without_an_id_gets_a_new_one(host: SdkClient, node: Node, web: FakeContainer) -> None:
    first, second = await stop(host), await stop(host)

    assert uuid.UUID(first.operation) != uuid.UUID(second.operation)
    assert web.changes == 2 and records(node, first.operation) == (1, ["ok"])


async def test_a_repeat_after_a_lost_answer_reports_the_current_state(
    host: SdkClient, node: Node, web: FakeContainer, fake: FakeEngine
) -> None:
    fake.fault(STOP, "lost", times=1)
    first = await stop(host, "op-1")
    web.state = "paused"
    second = await stop(host, "op-1")

    assert code(first) == code(second) == "unknown"
    assert "it is exited now" in first.text and "container `web` is paused now" in second.text
    assert web.changes == 1 and records(node, "op-1") == (1, ["unknown"])


@pytest.mark.parametrize(
    ("state", "words"),
    [("running", "container `web` is running now"), (None, "there is no container `web` now")],
    ids=["there", "gone"],
)
async def test_after_a_crash_the_outcome_is_unknown_and_the_object_is_inspected(
    state: str | None, words: str, host: SdkClient, node: Node, web: FakeContainer, fake: FakeEngine
) -> None:
    await stop(host, "op-1")
    forget_ends(node)
    if state is None:
        del fake.containers[web.id]
    else:
        web.state = state
    answer = await stop(host, "op-1")

    assert code(answer) == "unknown" and words in answer.text and answer.operation == "op-1"
    assert web.changes == 1 and records(node, "op-1") == (1, ["ok"])


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("create_container", {"image": "busybox", "name": "new"}, "there is no container `new` now"),
        ("create_container", {"image": "busybox"}, "may or may not have happened."),
        ("pull_image", {"image": "busybox"}, "image `busybox` exists now"),
    ],
    ids=["a name", "no name", "an image"],
)
async def test_after_a_crash_the_object_to_create_is_looked_up(
    tool: str, arguments: dict[str, Any], words: str, host: SdkClient, node: Node, fake: FakeEngine
) -> None:
    fake.fault("POST .*", "404")
    await call(host, tool, "op-1", **arguments)
    forget_ends(node)
    answer = await call(host, tool, "op-1", **arguments)

    assert code(answer) == "unknown" and words in answer.text


async def test_after_a_crash_the_outcome_stays_unknown_without_an_engine(
    host: SdkClient, node: Node, web: FakeContainer, fake: FakeEngine
) -> None:
    fake.fault(STOP, "lost", times=1)
    await stop(host, "op-1")
    fake.fault("GET /containers/web/json", "500")
    answer = await stop(host, "op-1")

    assert code(answer) == "unknown" and "container `web` could not be inspected" in answer.text


async def test_secrets_in_results_are_hidden_in_the_journal(host: SdkClient, node: Node, fake: FakeEngine) -> None:
    answer = await call(host, "execute_command", "op-1", command="echo --password=hunter2")
    again = await call(host, "execute_command", "op-1", command="echo --password=hunter2")

    assert answer.ok and again.result == answer.result
    files = (node.settings.state_dir / "operations").glob(f"{FILE}*")
    stored = b"".join(file.read_bytes() for file in files)
    assert b"hunter2" not in stored and b"<hidden>" in stored


async def test_a_repeat_of_a_change_with_a_result_too_large_to_keep_is_a_conflict(
    host: SdkClient, tmp_path: Path
) -> None:
    command = f"sh -c 'echo x >> {tmp_path}/count; seq 20000'"
    first = await call(host, "execute_command", "op-1", command=command)
    again = await call(host, "execute_command", "op-1", command=command)

    assert first.ok and code(again) == "conflict" and "already ran" in again.text
    assert (tmp_path / "count").read_text(encoding="utf-8") == "x\n"


async def test_a_concurrent_change_of_the_same_object_is_refused_and_names_the_holder(
    host: SdkClient, node: Node, web: FakeContainer, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_locks, "WAIT_SECONDS", 0.2)
    fake.fault(STOP, "late")
    async with anyio.create_task_group() as group:
        group.start_soon(stop, host, "op-1")
        await until_requested(fake, "/stop")
        by_name = await call(host, "restart_container", "op-2", name="web")
        by_id = await call(host, "remove_container", "op-3", name=web.id[:12], force=True)
        fake.released.set()

    for refused in (by_name, by_id):
        assert code(refused) == "busy"
        assert re.search(
            r"being changed by local: `stop_container` has been running for \d+ s \(operation op-1\)", refused.text
        ), refused.text
    assert web.changes == 1 and web.state == "exited"
    assert records(node, "op-2") == (0, ["failed"])


async def test_a_concurrent_change_of_the_same_object_waits_for_the_first(
    host: SdkClient, web: FakeContainer, fake: FakeEngine
) -> None:
    fake.fault(STOP, "late")
    answers: list[ToolAnswer] = []

    async def restart() -> None:
        answers.append(await call(host, "restart_container", name="web"))

    async with anyio.create_task_group() as group:
        group.start_soon(stop, host, "op-1")
        await until_requested(fake, "/stop")
        group.start_soon(restart)
        await anyio.sleep(0.1)
        assert not any("/restart" in one for one in fake.requests)
        fake.released.set()

    assert answers[0].ok and (web.changes, web.state) == (2, "running")


async def test_changes_of_other_objects_do_not_wait(host: SdkClient, web: FakeContainer, fake: FakeEngine) -> None:
    fake.add("db")
    fake.fault(f"POST /containers/{web.id}/stop", "late")
    async with anyio.create_task_group() as group:
        group.start_soon(stop, host, "op-1")
        await until_requested(fake, "/stop")
        other = await stop(host, "op-2", name="db")
        fake.released.set()

    assert other.ok


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"id": "f" * 12, "state": "running"}, "`web` is another container now"),
        ({"state": "exited"}, "`web` was exited, and is running now"),
    ],
    ids=["another id", "another state"],
)
async def test_an_object_that_changed_since_it_was_planned_is_not_touched(
    expected: dict[str, str], words: str, host: SdkClient, node: Node, web: FakeContainer
) -> None:
    refused = await stop(host, "op-1", {protocol_keys.EXPECT: {"id": web.id[:12], **expected}})

    assert code(refused) == "conflict" and "changed since planned" in refused.text and words in refused.text
    assert web.changes == 0 and records(node, "op-1") == (0, ["failed"])


async def test_an_object_that_is_still_as_planned_is_changed(host: SdkClient, web: FakeContainer) -> None:
    assert (await stop(host, meta={protocol_keys.EXPECT: {"id": web.id[:12], "state": "running"}})).ok
    assert web.changes == 1


async def test_an_object_removed_since_it_was_planned_is_a_conflict(
    host: SdkClient, web: FakeContainer, fake: FakeEngine
) -> None:
    del fake.containers[web.id]
    refused = await stop(host, meta={protocol_keys.EXPECT: {"id": web.id[:12], "state": "running"}})

    assert code(refused) == "conflict" and "changed since planned: there is no container `web` any more" in refused.text


async def test_a_plan_is_checked_again_after_waiting_for_another_change(
    host: SdkClient, web: FakeContainer, fake: FakeEngine
) -> None:
    """Two changes planned for the same state: the second must not act on the result of the first."""
    planned = {protocol_keys.EXPECT: {"id": web.id[:12], "state": "running"}}
    fake.fault(STOP, "late")
    answers: list[ToolAnswer] = []

    async def second() -> None:
        answers.append(await call(host, "remove_container", "op-2", planned, name="web", force=True))

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: stop(host, "op-1", planned))
        await until_requested(fake, "/stop")
        group.start_soon(second)
        await anyio.sleep(0.1)
        fake.released.set()

    assert code(answers[0]) == "conflict" and "was running, and is exited now" in answers[0].text
    assert web.id in fake.containers and web.changes == 1


def entries(node: Node, tool: str) -> list[Record]:
    return node.state.audit.read(tool=tool)
