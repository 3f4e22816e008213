"""Finding and running Docker Compose, and the stacks that it deployed without us."""

from __future__ import annotations

import os
import stat
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.errors import AnvylError, Cancelled, Timeout
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.stacks.compose_binary import find_compose
from anvyl_mcp.server.stacks.compose_runner import Compose, ComposeFailed
from anvyl_mcp.server.stacks.version_store import StackVersion, VersionStore
from tests.server.tools.test_tools import call, refused
from tests.support.engine.engines import RealEngine

SHOP = """
services:
  web:
    image: anvyl-test/web:1
    volumes: [data:/data]
    depends_on: [db]
  db:
    image: anvyl-test/busybox:latest
volumes: {data: {}}
"""


def executable(folder: Path, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "docker-compose"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


async def test_a_stack_deployed_by_hand_is_listed(engine: RealEngine, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    file = tmp_path / "shop/compose.yaml"
    file.write_text(SHOP, encoding="utf-8")
    by_hand = Compose(Engine(), "shop", file.parent, files=[str(file)])
    by_hand.run("up", "--detach", "--pull", "never", seconds=60)
    engine.api.stop("shop-db-1", timeout=1)
    try:
        async with aclosing(Node(load())) as here, Client(here.server) as client:
            listed = await call(client, "list_stacks")
            assert [(one["name"], one["status"], one["services"]) for one in listed["stacks"]] == [
                ("shop", "1 of 2 running", ["db", "web"])
            ]
            info = await call(client, "get_stack_info", name="shop")
            assert {one["service"]: one["state"] for one in info["services"]} == {"db": "exited", "web": "running"}
            assert (info["volumes"], info["networks"]) == (["shop_data"], ["shop_default"])
            assert (info["files"], info["versions"]) == ([str(file)], [])
            hint = (await refused(client, "stop_container", name="shop"))["hint"]
            assert "is a stack: call stop_stack with its name" in hint
            missing = await client.call_tool("get_stack_info", {"name": "shopp"})
            assert missing.is_error and "Did you mean `shop`?" in str(missing.content)
    finally:
        by_hand.run("down", "--volumes", "--timeout", "1", seconds=60)


def test_the_plugin_of_the_docker_cli_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_compose().origin == "extra `stacks`"

    plugin = executable(tmp_path / ".docker/cli-plugins", "echo v2.40.1")
    found = find_compose()
    assert (found.path, found.version, found.origin) == (plugin, (2, 40, 1), "plugin of the Docker CLI")

    os.utime(executable(plugin.parent, "echo 1.29.2"), ns=(1, 1))
    assert find_compose().origin == "extra `stacks`"


def test_a_missing_or_old_compose_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path / "scripts"))
    monkeypatch.setattr("anvyl_mcp.server.stacks.compose_binary.PLUGIN_FOLDERS", ())
    environment = {"HOME": str(tmp_path), "PATH": str(tmp_path / "bin")}
    with pytest.raises(AnvylError, match="Docker Compose is not installed") as missing:
        find_compose(environment)
    assert "'anvyl-mcp[stacks]'" in missing.value.hint

    executable(tmp_path / "bin", "echo docker-compose version 1.29.2, build 5becea4c")
    with pytest.raises(AnvylError, match=r"too old: .*bin/docker-compose is 1\.29\.2"):
        find_compose(environment)


class Given(Progress):
    """Cancelled from the start, if so given; keeps the steps."""

    def __init__(self, *, cancelled: bool = False) -> None:
        self._cancelled = cancelled
        self.steps: list[str] = []

    def __call__(self, done: float, total: float | None = None, message: str = "") -> None:
        self.steps.append(message)

    @property
    def cancelled(self) -> bool:
        return self._cancelled


def scripted(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    """Compose, replaced by a shell script."""
    monkeypatch.setenv("HOME", str(tmp_path))
    executable(tmp_path / ".docker/cli-plugins", f'[ "$1" = version ] && exec echo 2.40.0\n{script}')
    return Compose(Engine(), "shop", tmp_path)


def test_a_run_that_takes_too_long_is_stopped_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'echo " Container shop-web-1  Starting" >&2; trap "" TERM; sleep 60 & echo $! > "$HOME/child"; wait'
    monkeypatch.setattr("anvyl_mcp.server.stacks.compose_runner.GRACE_SECONDS", 0.1)
    with pytest.raises(Timeout, match=r"deploying shop took longer than 1 s .* container shop-web-1: starting"):
        scripted(script, tmp_path, monkeypatch).run("up", seconds=1, doing="deploying shop")
    child = Path(f"/proc/{(tmp_path / 'child').read_text(encoding='utf-8').strip()}/stat")
    deadline = time.monotonic() + 5
    # A killed process may still wait for a processor to end on.
    while child.exists() and child.read_text(encoding="utf-8").split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_cancelled_run_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Cancelled, match="deploying shop was cancelled"):
        scripted("exec sleep 60", tmp_path, monkeypatch).run(
            "up", seconds=50, progress=Given(cancelled=True), doing="deploying shop"
        )


def test_errors_warnings_and_steps_are_distinguished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = r"""
echo 'time="2026-01-01T00:00:00Z" level=warning msg="The \"X\" variable is not set. Defaulting to a blank string."' >&2
echo ' Container shop-web-1 Creating ' >&2
echo ' Container shop-web-1 Created ' >&2
[ "$FAIL" ] && exit 1
cat; env
"""
    compose, progress = scripted(script, tmp_path, monkeypatch), Given()
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "hunter2")
    output = compose.run("config", seconds=20, stdin="x" * 200_000, progress=progress)
    assert output.stdout.startswith("x" * 200_000)
    assert "hunter2" not in output.stdout and "DOCKER_HOST=unix:///nonexistent/docker.sock" in output.stdout
    assert output.warnings == ("The `X` variable is not set. Defaulting to a blank string",)
    assert progress.steps == ["container shop-web-1: creating", "container shop-web-1: created"]

    with pytest.raises(ComposeFailed, match="no configuration file"):
        scripted("echo no configuration file provided: not found >&2; exit 14", tmp_path, monkeypatch).run(
            "config", seconds=20
        )


def test_ten_versions_are_kept_and_the_last_one_that_worked(tmp_path: Path) -> None:
    store = VersionStore(tmp_path)
    for number in range(1, 14):
        store.begin("shop", StackVersion(0, 0, "anna", f"# {number}"))
        store.finish("shop", number, "deployed" if number < 3 else "failed")
    numbers = [one.number for one in store.versions("shop")]
    assert numbers == [13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 2], "without 2 there would be no way back"
    assert store.find("shop", "").number == 2

    for number in range(14, 26):
        store.begin("shop", StackVersion(0, 0, "anna", f"# {number}"))
        store.finish("shop", number, "deployed")
    assert [one.number for one in store.versions("shop")] == list(range(25, 15, -1))
