"""Policy, lock, approval and change use the same object, even if its name resolves differently by then.

Findings 6 (a name that becomes another object between decision and act) and 11 (images and volumes after an approval).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.settings import load
from anvyl_mcp.peers.changes import change_plan
from anvyl_mcp.server.policy.policy import Policy
from tests.server.tools.test_tools import call, refused
from tests.support.engine.engines import RealEngine
from tests.support.hosts.http_node import HttpNode

LABEL = {"anvyl.test": "1"}


def policy(content: str) -> None:
    file = load().policy_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")


def build(engine: RealEngine, tag: str, *, labels: str = "") -> str:
    """Build a unique image from busybox and return its id."""
    marker = io.BytesIO()
    with tarfile.open(fileobj=marker, mode="w") as tar:
        entry = tarfile.TarInfo(f"marker-{tag.replace(':', '-')}-{len(labels)}-{len(engine.api.images())}")
        tar.addfile(entry)
    changes = ['CMD ["sleep", "60"]', *([f"LABEL {labels}"] if labels else [])]
    engine.api.import_image_from_data(
        marker.getvalue(), repository=tag.partition(":")[0], tag=tag.partition(":")[2], changes=changes
    )
    return id_of(engine, tag)


def id_of(engine: RealEngine, tag: str) -> str:
    return str(engine.api.images(name=tag)[0]["Id"])


@pytest.fixture
def images(engine: RealEngine) -> Iterator[RealEngine]:
    before = {one["Id"] for one in engine.api.images()}
    yield engine
    engine.clean()
    for one in engine.api.images():
        for tag in one["RepoTags"] or ():
            if tag.startswith("test-"):
                engine.api.remove_image(tag, force=True)
    for one in engine.api.images():
        if one["Id"] not in before:
            engine.api.remove_image(one["Id"], force=True)


@pytest.fixture
async def client(engine: RealEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load({"toolsets": "all"}), serving=True)) as here, Client(here.server) as opened:
        yield opened


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Run an action right after the policy first allows a call, to simulate a race."""

    def arrange(happens: Callable[[], object]) -> None:
        check, waiting = Policy.check, [happens]

        async def raced(self: Policy, *arguments: Any) -> None:
            await check(self, *arguments)
            while waiting:
                waiting.pop()()

        monkeypatch.setattr(Policy, "check", raced)

    return arrange


@pytest.mark.parametrize("tool", ["restart_container", "remove_container", "get_container_logs"])
async def test_a_name_that_resolves_to_a_denied_container_after_the_decision_is_refused(
    client: Client, engine: RealEngine, between: Any, tool: str
) -> None:
    """A container named like the id prefix of another one disappears between policy check and change."""
    policy('[[deny]]\ncontainers = ["db"]\n')
    protected = engine.run("db")
    engine.run(protected[:12])
    between(lambda: engine.api.remove_container(protected[:12], force=True))
    started = engine.api.inspect_container("db")["State"]["StartedAt"]

    error = await refused(client, tool, name=protected[:12])

    assert error["code"] in ("denied", "conflict"), error
    assert engine.api.inspect_container("db")["State"]["StartedAt"] == started


async def test_a_name_that_appears_after_the_decision_is_refused(
    client: Client, engine: RealEngine, between: Any
) -> None:
    policy('[[deny]]\nlabels = { tier = "db" }\n')
    between(lambda: engine.run("web", labels={"tier": "db"}))

    assert (await refused(client, "stop_container", name="web"))["code"] in ("denied", "conflict", "not_found")
    assert engine.state("web") == "running"


async def test_the_policy_is_checked_again_when_the_objects_are_locked(
    client: Client, engine: RealEngine, between: Any
) -> None:
    """A change that is forbidden while it waits for its lock is not made."""
    policy('[[deny]]\ncontainers = ["db"]\n')
    engine.run("web")
    between(lambda: policy('[[deny]]\ncontainers = ["web"]\n'))

    assert (await refused(client, "stop_container", name="web"))["code"] == "denied"
    assert engine.state("web") == "running"


async def test_a_tag_that_moves_to_a_denied_image_is_not_run(client: Client, images: RealEngine, between: Any) -> None:
    policy('[[deny]]\nimages = ["test-evil"]\n')
    build(images, "test-good:1")
    build(images, "test-evil:1")
    images.api.tag("test-good:1", "test-app", "1")
    between(lambda: images.api.tag("test-evil:1", "test-app", "1"))

    error = await refused(client, "create_container", image="test-app:1", name="one")
    assert error["code"] in ("denied", "conflict"), error
    assert images.state("one") is None


async def test_an_image_is_removed_by_the_id_that_was_checked(client: Client, images: RealEngine, between: Any) -> None:
    policy('[[deny]]\nimages = ["never"]\n')
    build(images, "test-old:1")
    kept = build(images, "test-kept:1")
    between(lambda: images.api.tag("test-kept:1", "test-old", "1"))

    assert (await refused(client, "remove_image", image="test-old:1"))["code"] == "conflict"
    assert id_of(images, "test-old:1") == kept


async def test_an_image_with_other_names_keeps_them(client: Client, images: RealEngine) -> None:
    build(images, "test-a:1")
    images.api.tag("test-a:1", "test-b", "1")

    assert await call(client, "remove_image", image="test-a:1") == {
        "image": "test-a:1", "untagged": ["test-a:1"], "deleted": 0
    }  # fmt: skip
    assert (await call(client, "remove_image", image="test-b:1"))["deleted"] > 0


async def decided(http_node: HttpNode, query: str, meanwhile: Callable[[], object]) -> tuple[int, str]:
    """Ask for a change, run `meanwhile`, approve; returns the status and the answer."""
    asked = await http_node.request("exec", "/agent/process", {"query": query})
    assert asked.status_code == 202, asked.text
    meanwhile()
    answer = await http_node.request("exec", f"/agent/approvals/{asked.json()['approval']['id']}", {"approve": True})
    return answer.status_code, answer.text


@pytest.fixture
async def approving(engine: RealEngine, images: RealEngine, http_node: HttpNode) -> AsyncIterator[HttpNode]:
    yield http_node


async def test_an_approved_image_that_was_retagged_is_not_run(approving: HttpNode, images: RealEngine) -> None:
    build(images, "test-app:1")

    status, said = await decided(approving, "run test-app:1 as one", lambda: build(images, "test-app:1"))

    assert status == 409 and "changed since planned" in said and "`test-app:1` is another image now" in said
    assert images.state("one") is None
    status, said = await decided(
        approving, "run docker.io/library/test-app:1 as one", lambda: build(images, "test-app:1")
    )
    assert status == 409, said


async def test_an_approved_image_that_was_retagged_is_not_removed(approving: HttpNode, images: RealEngine) -> None:
    build(images, "test-app:1")

    status, said = await decided(approving, "remove image test-app:1", lambda: build(images, "test-app:1"))

    assert status == 409 and "changed since planned" in said
    assert id_of(images, "test-app:1")


async def test_an_approved_volume_that_was_recreated_is_not_removed(
    engine: RealEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    node = Node(load({"toolsets": "all"}), serving=True)
    async with aclosing(node):
        engine.api.create_volume("test-data")
        listing, given = node.fleet.tool("remove_volume"), {"name": "test-data"}
        [planned] = (await change_plan.expected_objects(node.fleet, listing, given, node.fleet.hosts)).values()
        assert planned.others["volume test-data"].startswith("test-data@2")
        other: Any = {protocol_keys.OBJECTS: {what: f"{name}1999" for what, name in planned.others.items()}}
        same: Any = planned.as_meta()
        async with Client(node.server) as client:
            refused = await client.call_tool("remove_volume", given, meta=other)
            assert refused.is_error and "`test-data` is another volume now" in str(refused.content)
            assert engine.api.inspect_volume("test-data")
            done = await client.call_tool("remove_volume", given, meta=same)
            assert not done.is_error
            gone = await client.call_tool("remove_volume", given, meta=same)
            assert gone.is_error and "there is no volume `test-data` any more" in str(gone.content)


async def test_an_approved_network_that_was_recreated_is_not_removed(engine: RealEngine) -> None:
    node = Node(load({"toolsets": "all"}), serving=True)
    async with aclosing(node):
        engine.api.create_network("test-front", labels=LABEL)
        try:
            listing, given = node.fleet.tool("remove_network"), {"name": "test-front"}
            expected = await change_plan.expected_objects(node.fleet, listing, given, node.fleet.hosts)
            engine.api.remove_network("test-front")
            engine.api.create_network("test-front", labels=LABEL)
            outcome = await node.fleet.call(
                node.fleet.hosts[0], "remove_network", given, expected=next(iter(expected.values()))
            )
            assert outcome.error is not None and "changed since planned" in outcome.error.message
        finally:
            engine.api.remove_network("test-front")
