"""The engine is located in every known place, and every supported version is understood."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.errors import EngineError, EngineMissing
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.engine import sockets
from anvyl_mcp.server.engine.engine import Engine
from tests.support.engine.fake_engine import FakeEngine

AGES = {"20.10": "1.41", "25": "1.44", "28": "1.51", "29.0": "1.52", "29.10": "1.57"}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment whose home and runtime folder are empty, on a machine without an engine in the usual place."""
    monkeypatch.setattr(sockets, "DEFAULT_SOCKET", tmp_path / "var/run/docker.sock")
    monkeypatch.setenv("HOME", str(tmp_path))
    return {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}


@pytest.fixture
def listener() -> Iterator[Any]:
    opened: list[socket.socket] = []

    def listen(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        one = socket.socket(socket.AF_UNIX)
        opened.append(one)
        one.bind(str(path))
        one.listen()
        return path

    yield listen
    for one in opened:
        one.close()


@pytest.mark.parametrize(
    ("where", "owner"),
    [
        ("var/run/docker.sock", "Docker"),
        ("run/docker.sock", "rootless Docker"),
        (".docker/run/docker.sock", "Docker Desktop"),
        (".docker/desktop/docker.sock", "Docker Desktop"),
        (".orbstack/run/docker.sock", "OrbStack"),
        (".colima/default/docker.sock", "Colima"),
        (".config/colima/default/docker.sock", "Colima"),
        (".rd/docker.sock", "Rancher Desktop"),
        ("run/podman/podman.sock", "Podman"),
    ],
)
def test_an_engine_is_found_in_every_known_place(
    where: str, owner: str, places: dict[str, str], listener: Any, tmp_path: Path
) -> None:
    path = listener(tmp_path / where)

    found = sockets.locate(places)

    assert (found.path, found.origin) == (path, owner)
    assert Engine(places).socket == path


def test_sockets_left_by_a_stopped_engine_are_skipped(places: dict[str, str], listener: Any, tmp_path: Path) -> None:
    (tmp_path / "var/run").mkdir(parents=True)
    (tmp_path / "var/run/docker.sock").symlink_to(tmp_path / "gone")
    with socket.socket(socket.AF_UNIX) as left:
        (tmp_path / "run").mkdir()
        left.bind(str(tmp_path / "run/docker.sock"))

    path = listener(tmp_path / ".rd/docker.sock")

    assert sockets.locate(places).path == path


def test_an_engine_chosen_by_name_is_never_replaced_by_another(
    places: dict[str, str], listener: Any, tmp_path: Path
) -> None:
    listener(tmp_path / "run/docker.sock")

    with pytest.raises(EngineMissing, match="no Docker engine is running") as raised:
        sockets.locate({**places, "DOCKER_HOST": f"unix://{tmp_path}/nowhere.sock"})
    assert "DOCKER_HOST points to unix://" in raised.value.hint
    assert Engine({**places, "DOCKER_HOST": "tcp://192.0.2.1:2375"}).socket is None


def test_the_context_of_the_docker_command_is_followed(
    places: dict[str, str], listener: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = listener(tmp_path / "mine.sock")
    monkeypatch.delenv("DOCKER_HOST")
    meta = tmp_path / ".docker/contexts/meta" / sha256(b"mine").hexdigest()
    meta.mkdir(parents=True)
    context = {"Name": "mine", "Metadata": {}, "Endpoints": {"docker": {"Host": f"unix://{path}"}}}
    (meta / "meta.json").write_text(json.dumps(context), encoding="utf-8")
    (tmp_path / ".docker/config.json").write_text('{"currentContext": "mine"}', encoding="utf-8")

    found = sockets.locate(places)

    assert (found.path, found.origin) == (path, "the Docker context `mine`")
    with pytest.raises(EngineError, match="`other`"):
        sockets.locate({**places, "DOCKER_CONTEXT": "other"})


def test_an_error_without_an_engine_names_the_places_tried(places: dict[str, str]) -> None:
    with pytest.raises(EngineMissing) as raised:
        Engine(places).ping()

    assert "Docker Desktop, OrbStack, Colima, Rancher Desktop, Podman" in raised.value.hint
    assert Engine(places).socket == sockets.DEFAULT_SOCKET


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "e.sock") as started:
        monkeypatch.setenv("DOCKER_HOST", started.url)
        yield started


@pytest.fixture
async def client(fake: FakeEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as opened:
        yield opened


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert isinstance(result.structured_content, dict)
    return result.structured_content


@pytest.mark.parametrize("version", AGES.values(), ids=AGES)
async def test_containers_look_the_same_on_every_engine_version(version: str, fake: FakeEngine, client: Client) -> None:
    fake.version = version
    fake.oldest = "1.44" if version == "1.52" else "1.40"
    fake.add("web")

    listed = (await call(client, "list_containers"))["containers"]
    info = await call(client, "get_container_info", name="web")

    assert [(one["name"], one["ports"]) for one in listed] == [("web", ["8080->80"])]
    assert info["networks"] == ["bridge 172.17.0.2"]
    assert (info["command"], info["env"], info["labels"]) == ("", [], [])


async def test_fields_that_an_engine_omits_are_empty(fake: FakeEngine, client: Client) -> None:
    left_out = {"Names": None, "Ports": None, "Labels": None, "Image": None, "Status": None, "Created": None}
    bare = {"Config": {}, "HostConfig": {}, "NetworkSettings": {}, "Mounts": None, "State": {"Running": True}}
    box = fake.add("web", listed=left_out, over=bare)
    fake.images = [{"Id": "sha256:" + "b" * 64, "RepoTags": None, "Containers": -1}]
    fake.answers["/info"] = {}

    listed = (await call(client, "list_containers"))["containers"]
    info = await call(client, "get_container_info", name="web")
    images = (await call(client, "list_images"))["images"]
    host = await call(client, "get_host_info")

    assert (listed[0]["name"], listed[0]["ports"]) == (box.id[:12], [])
    assert (info["state"], info["networks"], info["mounts"], info["image"]) == ("running", [], [], "")
    assert (images[0]["tags"], images[0]["size"]) == ([], None)
    assert host["engine"]["error"] == ""


async def test_an_engine_without_containers_may_say_null(fake: FakeEngine, client: Client) -> None:
    fake.answers["/containers/json"] = None

    assert (await call(client, "list_containers"))["total"] == 0


async def test_an_upgraded_engine_is_used_with_its_new_version(fake: FakeEngine, client: Client) -> None:
    fake.add("web")
    await call(client, "list_containers")

    fake.version, fake.oldest = "1.57", "1.44"
    assert (await call(client, "list_containers"))["total"] == 1
    assert (await call(client, "stop_container", name="web"))["state"] == "exited"


async def test_a_downgraded_engine_is_used_with_its_old_version(fake: FakeEngine, client: Client) -> None:
    fake.version = "1.57"
    box = fake.add("web")
    await call(client, "list_containers")

    fake.version = "1.41"
    assert (await call(client, "stop_container", name="web"))["state"] == "exited"
    assert box.changes == 1


async def test_another_engine_on_the_same_socket_is_detected(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/other.sock")
    engine = Engine()
    with FakeEngine(tmp_path / "other.sock", version="1.41"):
        assert engine.client().api_version == "1.41"
    with pytest.raises(EngineMissing):
        engine.ping()
    with FakeEngine(tmp_path / "other.sock", version="1.57"):
        engine.ping()
        assert engine.client().api_version == "1.57"
    engine.close()
