"""The history tools on a real engine, recorded by a serving host and asked through the official MCP client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from tests.server.tools.test_tools import call, refused, words
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import anvyl

Entry = dict[str, Any]


@pytest.fixture
async def host(engine: RealEngine) -> AsyncIterator[Client]:
    """A host that records its history."""
    async with aclosing(Node(load(), serving=True)) as node, node.recorder().run(), Client(node.server) as client:
        yield client


async def wait_for(client: Client, fits: Callable[[list[Entry]], bool], **arguments: Any) -> dict[str, Any]:
    """Ask for the history until it fits."""
    found: dict[str, Any] = {}
    with anyio.move_on_after(20):
        while True:
            found = await call(client, "list_history", **arguments)
            if fits(found["events"]):
                return found
            await anyio.sleep(0.1)
    pytest.fail(json.dumps(found, indent=1))


def who_did(entries: list[Entry], name: str) -> list[tuple[str, str]]:
    return [(one["what"], one["who"]) for one in entries if one["name"] == name]


async def test_who_stopped_it_why_it_crashed_and_what_it_wrote_last(host: Client, engine: RealEngine) -> None:
    # The engine remembers containers of other tests, so these names are used only here.
    engine.run("till")
    await call(host, "stop_container", name="till")
    engine.api.start("till")
    engine.api.stop("till", timeout=1)
    found = await wait_for(
        host, lambda entries: who_did(entries, "till")[:1] == [("stopped", "outside Anvyl")], name="till"
    )
    assert who_did(found["events"], "till") == [
        ("stopped", "outside Anvyl"),
        ("started", "outside Anvyl"),
        ("stopped", "local"),
        ("created and started", "outside Anvyl"),
    ]
    assert found["state"] == "ended" and found["state_since"] == found["events"][0]["time"]
    assert found["kept_since"] and found["problem"] == "" and found["gaps"] == []

    engine.run("secret", ["sh", "-c", "echo hidden; exit 1"], labels={"anvyl.read": "false"})
    engine.run("chore", ["sh", "-c", "for n in $(seq 60); do echo line $n; done; echo password=hunter2pass; exit 3"])
    found = await wait_for(
        host, lambda entries: bool(entries) and bool(entries[0]["lines"]), name="chore", kind="deaths"
    )
    (crash,) = found["events"]
    assert (crash["what"], crash["exit_code"], crash["who"]) == ("crashed", 3, "")
    assert crash["lines"][0] == "line 12" and len(crash["lines"]) == 50
    assert "hunter2pass" not in json.dumps(found) and "password=" in crash["lines"][-1]

    engine.api.remove_container("chore")
    gone = await refused(host, "get_container_logs", name="chore")
    assert gone["message"] == "there is no container `chore` now, but its last lines were kept"
    assert "anvyl history chore" in gone["hint"]
    engine.run("chore")
    found = await wait_for(host, lambda entries: len(entries) >= 4 and "started" in entries[0]["what"], name="chore")
    assert who_did(found["events"], "chore") == [
        ("created and started", "outside Anvyl"),
        ("removed", "outside Anvyl"),
        ("crashed", ""),
        ("created and started", "outside Anvyl"),
    ]
    assert next(one["lines"] for one in found["events"] if one["lines"])[-2] == "line 60", (
        "from before it was recreated"
    )

    everything = await call(host, "list_history")
    assert "secret" not in json.dumps(everything)
    changes = await call(host, "list_history", kind="changes", limit=3)
    assert len(changes["events"]) == 3 and changes["more"] == changes["total"] - 3
    assert all(one["who"] for one in changes["events"])


async def test_a_crash_loop_is_one_entry_and_an_unknown_name_is_said(host: Client, engine: RealEngine) -> None:
    engine.run("quits", ["sh", "-c", "exit 4"], restart_policy={"Name": "on-failure", "MaximumRetryCount": 3})
    found = await wait_for(host, lambda entries: bool(entries) and entries[0]["times"] == 4, name="quits")
    assert "exit code 4, restarted by Docker ×3" in found["events"][0]["detail"]

    assert "did you mean `quits`?" in (await call(host, "list_history", name="quist"))["note"]
    assert (await refused(host, "list_history", since="at 3"))["message"] == "`3` may be 3 am or 3 pm"
    assert (await refused(host, "list_history", since="the flood"))["code"] == "invalid_input"
    assert (await refused(host, "list_history", kind="deathly"))["code"] == "invalid_input"
    old = await call(host, "list_history", since="30d")
    assert old["kept_since"] > old["since"]
    assert "history is kept since" in words(await host.call_tool("list_history", {"since": "30d"}))
    before = await call(host, "list_history", name="quits", since="2026-01-01", until="2026-01-02")
    assert before["events"] == [] and "nothing about `quits`" in before["note"]

    usage = await call(host, "get_usage_history")
    assert usage["usage"][0]["memory"] > 0 and usage["disks"][0]["total"] > 0
    assert "less than a day of history" in words(await host.call_tool("get_usage_history", {}))

    engine.api.rename("quits", "gives-up")
    found = await wait_for(host, lambda entries: bool(entries) and entries[0]["what"] == "renamed", name="quits")
    assert found["note"] == "`quits` was renamed to `gives-up`" and len(found["events"]) >= 3


async def test_without_a_server_the_engine_is_asked_what_it_remembers(engine: RealEngine, tmp_path: Path) -> None:
    engine.run("web")
    engine.api.stop("web", timeout=1)

    done = await anyio.to_thread.run_sync(lambda: anvyl("history", "web", "--json"))

    assert done.code == 0, done.err
    assert who_did(done.json["events"], "web")[0] == ("stopped", "outside Anvyl")
    (note,) = [words for words in done.json["notes"] if "anvyl-mcp serve" in words]
    assert "no history was kept yet" in note
    shown = await anyio.to_thread.run_sync(lambda: anvyl("history", "--since", "at 3"))
    assert shown.code == 2 and "3 am or 3 pm" in shown.err
    assert (await anyio.to_thread.run_sync(lambda: anvyl("history", "--kind", "death"))).code == 2


async def test_what_happened_while_no_server_ran_is_recorded_later(engine: RealEngine, tmp_path: Path) -> None:
    async with aclosing(Node(load(), serving=True)) as node, node.recorder().run(), Client(node.server) as client:
        engine.run("early")
        engine.run("web")
        await wait_for(client, lambda entries: bool(who_did(entries, "web") and who_did(entries, "early")))
    engine.api.stop("web", timeout=1)
    engine.api.remove_container("early", force=True)
    async with aclosing(Node(load(), serving=True)) as node, node.recorder().run(), Client(node.server) as client:
        found = await wait_for(client, lambda entries: who_did(entries, "web")[0][0] == "stopped")

    assert who_did(found["events"], "web")[0] == ("stopped", "outside Anvyl")
    assert who_did(found["events"], "early")[0] == ("killed and removed", "outside Anvyl")
