"""Approvals: who may approve, that an id can be used once and expires, and that only the shown container is changed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from anvyl_mcp.orchestrator import approvals
from tests.support.engine.engines import RealEngine
from tests.support.hosts.http_node import HttpNode, open_http_node
from tests.support.model_server import ModelServer, call, tool_calls


def touch_query(file: Path) -> dict[str, str]:
    return {"query": f"run command touch {file}"}


async def pending_approval(http_node: HttpNode, body: dict[str, str], caller: str = "exec") -> dict[str, Any]:
    """Ask a question whose change waits, and return its approval."""
    answer = await http_node.request(caller, "/agent/process", body)
    assert answer.status_code == 202, answer.text
    approval: dict[str, Any] = answer.json()["approval"]
    assert set(approval) == {"id", "calls", "expires_at"}
    return approval


async def decide(http_node: HttpNode, id_: str, approve: bool = True, caller: str = "exec") -> tuple[int, str]:
    answer = await http_node.request(caller, f"/agent/approvals/{id_}", {"approve": approve})
    body = answer.json()
    return answer.status_code, body["error"]["code"] if "error" in body else body["response"]


async def test_an_approval_executes_exactly_the_shown_calls_once(http_node: HttpNode, tmp_path: Path) -> None:
    file = tmp_path / "done"
    approval = await pending_approval(http_node, touch_query(file))
    [shown] = approval["calls"]
    assert (shown["tool"], shown["arguments"]["command"]) == ("execute_command", f"touch {file}")
    assert not file.exists()

    answer = await http_node.request("exec", f"/agent/approvals/{approval['id']}", {"approve": True})

    assert answer.status_code == 200, answer.text
    assert [(done["tool"], done["ok"]) for done in answer.json()["calls"]] == [("execute_command", True)]
    assert file.exists()
    file.unlink()
    assert await decide(http_node, approval["id"]) == (410, "gone")
    assert not file.exists()


async def test_a_denied_approval_is_used_up(http_node: HttpNode, tmp_path: Path) -> None:
    approval = await pending_approval(http_node, touch_query(tmp_path / "done"))

    status, said = await decide(http_node, approval["id"], approve=False)

    assert status == 200 and said == "Cancelled; nothing was changed."
    assert await decide(http_node, approval["id"]) == (410, "gone")
    assert not (tmp_path / "done").exists()


async def test_of_concurrent_approvals_only_one_is_executed(http_node: HttpNode, tmp_path: Path) -> None:
    log = tmp_path / "log"
    approval = await pending_approval(http_node, {"query": f"run command sh -c 'echo once >> {log}'"})
    seen: list[int] = []

    async def one() -> None:
        seen.append((await decide(http_node, approval["id"]))[0])

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(one)

    assert sorted(seen) == [200, *[410] * 7]
    assert log.read_text(encoding="utf-8") == "once\n"


@pytest.mark.parametrize("id_", ["A" * 22, "1", "..%2f..%2fhosts", "%00", "é", "a" * 500])
async def test_an_unknown_id_is_a_404(id_: str, http_node: HttpNode) -> None:
    assert await decide(http_node, id_) == (404, "not_found")


async def test_an_expired_approval_is_gone_with_its_arguments(
    http_node: HttpNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anvyl_mcp.orchestrator.api.service.expiry", lambda: datetime.now(UTC) - timedelta(seconds=1))
    approval = await pending_approval(http_node, touch_query(tmp_path / "done"))

    for _ in range(2):
        assert await decide(http_node, approval["id"]) == (410, "gone")

    assert not (tmp_path / "done").exists()
    assert all(
        str(tmp_path / "done") not in file.read_text(encoding="utf-8") for file in approvals_dir(tmp_path).iterdir()
    )


def approvals_dir(home: Path) -> Path:
    return home / "approvals"


async def test_approval_files_are_private(http_node: HttpNode, tmp_path: Path) -> None:
    approval = await pending_approval(http_node, touch_query(tmp_path / "done"))

    assert approvals_dir(tmp_path).stat().st_mode & 0o077 == 0
    assert (approvals_dir(tmp_path) / f"{approval['id']}.json").stat().st_mode & 0o077 == 0


async def test_a_caller_without_the_right_cannot_approve(http_node: HttpNode, tmp_path: Path) -> None:
    """The attempt does not use up the approval."""
    file = tmp_path / "done"
    approval = await pending_approval(http_node, touch_query(file))

    for caller, status in {"anonymous": 401, "read": 403, "operate": 403}.items():
        assert await decide(http_node, approval["id"], caller=caller) == (status, "denied")

    assert not file.exists()
    assert (await decide(http_node, approval["id"]))[0] == 200
    assert file.exists()


@pytest.mark.parametrize("caller", ["read", "operate"])
async def test_a_change_beyond_the_askers_rights_is_refused_at_once(
    caller: str, http_node: HttpNode, tmp_path: Path
) -> None:
    answer = await http_node.request(caller, "/agent/process", touch_query(tmp_path / "done"))

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "denied")
    assert not approvals_dir(tmp_path).exists()


async def test_an_approval_runs_with_the_askers_rights_at_most(http_node: HttpNode, tmp_path: Path) -> None:
    """Even if the stored scopes are fewer than the change needs, the host that executes it refuses."""
    approval = await pending_approval(http_node, touch_query(tmp_path / "done"))
    file = approvals_dir(tmp_path) / f"{approval['id']}.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"scopes": ["read"]}), encoding="utf-8")

    answer = await http_node.request("exec", f"/agent/approvals/{approval['id']}", {"approve": True})

    assert [done["ok"] for done in answer.json()["calls"]] == [False]
    assert not (tmp_path / "done").exists()


async def test_approvals_survive_a_restart(tmp_path: Path) -> None:
    async with open_http_node() as before:
        approval = await pending_approval(before, touch_query(tmp_path / "done"))
    async with open_http_node(before.tokens) as after:
        assert (await decide(after, approval["id"]))[0] == 200
        assert (tmp_path / "done").exists()
    async with open_http_node(before.tokens) as after:
        assert await decide(after, approval["id"]) == (410, "gone")


@pytest.fixture
def two_pending_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "MOST_PENDING", 2)


async def test_the_number_of_pending_approvals_is_limited(
    http_node: HttpNode, tmp_path: Path, two_pending_at_most: None
) -> None:
    for _ in range(2):
        await pending_approval(http_node, touch_query(tmp_path / "done"))

    answer = await http_node.request("exec", "/agent/process", touch_query(tmp_path / "done"))

    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "busy")


async def test_a_damaged_file_approves_nothing(http_node: HttpNode, tmp_path: Path) -> None:
    approval = await pending_approval(http_node, touch_query(tmp_path / "done"))
    (approvals_dir(tmp_path) / f"{approval['id']}.json").write_bytes(b"\x00{")

    assert await decide(http_node, approval["id"]) == (503, "config_invalid")


@pytest.fixture
async def node_with_engine(engine: RealEngine, http_node: HttpNode) -> AsyncIterator[HttpNode]:
    yield http_node


async def test_a_replaced_container_is_not_changed(node_with_engine: HttpNode, engine: RealEngine) -> None:
    engine.run("web")
    approval = await pending_approval(node_with_engine, {"query": "stop web"}, "operate")
    assert approval["calls"][0]["arguments"] == {"name": "web"}
    engine.clean()
    engine.run("web")

    assert await decide(node_with_engine, approval["id"], caller="operate") == (409, "conflict")

    assert engine.state("web") == "running"
    assert (await decide(node_with_engine, approval["id"], caller="operate"))[0] == 410


async def test_an_approved_stop_stops_the_container(node_with_engine: HttpNode, engine: RealEngine) -> None:
    engine.run("web")
    approval = await pending_approval(node_with_engine, {"query": "stop web"}, "operate")

    status, said = await decide(node_with_engine, approval["id"], caller="operate")

    assert status == 200 and said.startswith("Stopped web on ")
    assert engine.state("web") == "exited"


async def test_a_change_of_a_missing_container_is_a_404(node_with_engine: HttpNode, engine: RealEngine) -> None:
    answer = await node_with_engine.request("operate", "/agent/process", {"query": "stop wbe"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_several_changes_wait_together_and_are_made_in_order(
    node_with_engine: HttpNode, engine: RealEngine, model_server: ModelServer
) -> None:
    """The second change expects the state that the first one leaves."""
    engine.run("web")
    both = [call("stop_container", {"name": "web"}), call("start_container", {"name": "web"}, call_id="call_2")]
    model_server.replies += [tool_calls(*both)]
    object.__setattr__(node_with_engine.node.settings, "lmstudio_url", model_server.url)
    approval = await pending_approval(node_with_engine, {"query": "stop web and then start web"}, "operate")
    assert [held["tool"] for held in approval["calls"]] == ["stop_container", "start_container"]

    answer = await node_with_engine.request("operate", f"/agent/approvals/{approval['id']}", {"approve": True})

    assert [(done["tool"], done["ok"]) for done in answer.json()["calls"]] == [
        ("stop_container", True),
        ("start_container", True),
    ], answer.text
    assert engine.state("web") == "running"
