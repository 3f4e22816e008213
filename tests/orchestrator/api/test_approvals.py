"""What waits for a yes: by whom, once, for how long, and for exactly which container."""

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


def touching(file: Path) -> dict[str, str]:
    return {"query": f"run command touch {file}"}


async def waiting(http_node: HttpNode, body: dict[str, str], caller: str = "exec") -> dict[str, Any]:
    """A question whose change waits; its approval."""
    answer = await http_node.request(caller, "/agent/process", body)
    assert answer.status_code == 202, answer.text
    approval: dict[str, Any] = answer.json()["approval"]
    assert set(approval) == {"id", "calls", "expires_at"}
    return approval


async def decide(http_node: HttpNode, id_: str, approve: bool = True, caller: str = "exec") -> tuple[int, str]:
    answer = await http_node.request(caller, f"/agent/approvals/{id_}", {"approve": approve})
    body = answer.json()
    return answer.status_code, body["error"]["code"] if "error" in body else body["response"]


async def test_a_yes_does_exactly_what_was_shown_and_is_good_once(http_node: HttpNode, tmp_path: Path) -> None:
    file = tmp_path / "done"
    approval = await waiting(http_node, touching(file))
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


async def test_a_no_uses_it_up_too(http_node: HttpNode, tmp_path: Path) -> None:
    approval = await waiting(http_node, touching(tmp_path / "done"))

    status, said = await decide(http_node, approval["id"], approve=False)

    assert status == 200 and said == "Cancelled; nothing was changed."
    assert await decide(http_node, approval["id"]) == (410, "gone")
    assert not (tmp_path / "done").exists()


async def test_of_many_at_once_one_is_carried_out(http_node: HttpNode, tmp_path: Path) -> None:
    log = tmp_path / "log"
    approval = await waiting(http_node, {"query": f"run command sh -c 'echo once >> {log}'"})
    seen: list[int] = []

    async def one() -> None:
        seen.append((await decide(http_node, approval["id"]))[0])

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(one)

    assert sorted(seen) == [200, *[410] * 7]
    assert log.read_text(encoding="utf-8") == "once\n"


@pytest.mark.parametrize("id_", ["A" * 22, "1", "..%2f..%2fhosts", "%00", "é", "a" * 500])
async def test_an_id_that_never_was_is_unknown(id_: str, http_node: HttpNode) -> None:
    assert await decide(http_node, id_) == (404, "not_found")


async def test_an_expired_one_is_gone_and_keeps_nothing_of_what_was_asked(
    http_node: HttpNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anvyl_mcp.orchestrator.api.service.expiry", lambda: datetime.now(UTC) - timedelta(seconds=1))
    approval = await waiting(http_node, touching(tmp_path / "done"))

    for _ in range(2):
        assert await decide(http_node, approval["id"]) == (410, "gone")

    assert not (tmp_path / "done").exists()
    assert all(str(tmp_path / "done") not in file.read_text(encoding="utf-8") for file in folder(tmp_path).iterdir())


def folder(home: Path) -> Path:
    return home / "approvals"


async def test_nobody_else_can_read_what_waits(http_node: HttpNode, tmp_path: Path) -> None:
    approval = await waiting(http_node, touching(tmp_path / "done"))

    assert folder(tmp_path).stat().st_mode & 0o077 == 0
    assert (folder(tmp_path) / f"{approval['id']}.json").stat().st_mode & 0o077 == 0


async def test_whoever_may_not_do_it_cannot_approve_it_either(http_node: HttpNode, tmp_path: Path) -> None:
    """And their try does not use it up."""
    file = tmp_path / "done"
    approval = await waiting(http_node, touching(file))

    for caller, status in {"anonymous": 401, "read": 403, "operate": 403}.items():
        assert await decide(http_node, approval["id"], caller=caller) == (status, "denied")

    assert not file.exists()
    assert (await decide(http_node, approval["id"]))[0] == 200
    assert file.exists()


@pytest.mark.parametrize("caller", ["read", "operate"])
async def test_what_an_asker_may_not_do_does_not_wait_for_others(
    caller: str, http_node: HttpNode, tmp_path: Path
) -> None:
    answer = await http_node.request(caller, "/agent/process", touching(tmp_path / "done"))

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "denied")
    assert not folder(tmp_path).exists()


async def test_a_yes_gives_no_more_rights_than_the_asker_had(http_node: HttpNode, tmp_path: Path) -> None:
    """Were the file changed to hold more than was asked with fewer rights, the host that acts refuses."""
    approval = await waiting(http_node, touching(tmp_path / "done"))
    file = folder(tmp_path) / f"{approval['id']}.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"scopes": ["read"]}), encoding="utf-8")

    answer = await http_node.request("exec", f"/agent/approvals/{approval['id']}", {"approve": True})

    assert [done["ok"] for done in answer.json()["calls"]] == [False]
    assert not (tmp_path / "done").exists()


async def test_what_waits_survives_a_restart(tmp_path: Path) -> None:
    async with open_http_node() as before:
        approval = await waiting(before, touching(tmp_path / "done"))
    async with open_http_node(before.tokens) as after:
        assert (await decide(after, approval["id"]))[0] == 200
        assert (tmp_path / "done").exists()
    async with open_http_node(before.tokens) as after:
        assert await decide(after, approval["id"]) == (410, "gone")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "MOST_PENDING", 2)


async def test_no_more_than_a_shelf_full_waits(http_node: HttpNode, tmp_path: Path, few: None) -> None:
    for _ in range(2):
        await waiting(http_node, touching(tmp_path / "done"))

    answer = await http_node.request("exec", "/agent/process", touching(tmp_path / "done"))

    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "busy")


async def test_a_damaged_file_is_no_yes(http_node: HttpNode, tmp_path: Path) -> None:
    approval = await waiting(http_node, touching(tmp_path / "done"))
    (folder(tmp_path) / f"{approval['id']}.json").write_bytes(b"\x00{")

    assert await decide(http_node, approval["id"]) == (503, "config_invalid")


@pytest.fixture
async def with_engine(engine: RealEngine, http_node: HttpNode) -> AsyncIterator[HttpNode]:
    yield http_node


async def test_another_container_of_that_name_is_left_alone(with_engine: HttpNode, engine: RealEngine) -> None:
    engine.run("web")
    approval = await waiting(with_engine, {"query": "stop web"}, "operate")
    assert approval["calls"][0]["arguments"] == {"name": "web"}
    engine.clean()
    engine.run("web")

    assert await decide(with_engine, approval["id"], caller="operate") == (409, "conflict")

    assert engine.state("web") == "running"
    assert (await decide(with_engine, approval["id"], caller="operate"))[0] == 410


async def test_the_container_that_was_meant_is_stopped(with_engine: HttpNode, engine: RealEngine) -> None:
    engine.run("web")
    approval = await waiting(with_engine, {"query": "stop web"}, "operate")

    status, said = await decide(with_engine, approval["id"], caller="operate")

    assert status == 200 and said.startswith("Stopped web on ")
    assert engine.state("web") == "exited"


async def test_a_container_that_is_not_there_does_not_wait(with_engine: HttpNode, engine: RealEngine) -> None:
    answer = await with_engine.request("operate", "/agent/process", {"query": "stop wbe"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_several_changes_wait_together_and_are_made_in_their_order(
    with_engine: HttpNode, engine: RealEngine, model_server: ModelServer
) -> None:
    """What the first one does to the container is no surprise to the second."""
    engine.run("web")
    both = [call("stop_container", {"name": "web"}), call("start_container", {"name": "web"}, call_id="call_2")]
    model_server.replies += [tool_calls(*both)]
    object.__setattr__(with_engine.node.settings, "lmstudio_url", model_server.url)
    approval = await waiting(with_engine, {"query": "stop web and then start web"}, "operate")
    assert [held["tool"] for held in approval["calls"]] == ["stop_container", "start_container"]

    answer = await with_engine.request("operate", f"/agent/approvals/{approval['id']}", {"approve": True})

    assert [(done["tool"], done["ok"]) for done in answer.json()["calls"]] == [
        ("stop_container", True),
        ("start_container", True),
    ], answer.text
    assert engine.state("web") == "running"
