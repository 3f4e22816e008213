"""One browser for each module, and a host with an engine, a dead host and a silent one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.browser import ARGUMENTS, chromium
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import NO_MODEL, ServingNode, running_node


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module."""
    path = chromium()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def node(engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    """The host `nas`; it knows `attic`, which refuses connections, and `cellar`, which never answers."""
    home: Path = tmp_path_factory.mktemp("nas")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = {"attic": "http://127.0.0.1:1", "cellar": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        file = home / "hosts.toml"
        file.write_text("".join(f'[hosts.{name}]\nurl = "{url}"\n' for name, url in hosts.items()), encoding="utf-8")
        file.chmod(0o600)
        with running_node("nas", home, engine, ANVYL_LMSTUDIO_URL=NO_MODEL) as started:
            yield started
