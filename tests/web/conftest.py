"""One browser for each module, and one host with a watch for all; it knows a dead host and a silent one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support.browser import ARGUMENTS, SECONDS, Errors, chromium, one_time_link, opened
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import NO_MODEL, ServingNode, running_node

expect.set_options(timeout=SECONDS * 1000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module."""
    path = chromium()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture(scope="package")
def node(engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    """The host `nas`; it knows `attic`, which refuses connections, and `cellar`, which never answers."""
    home: Path = tmp_path_factory.mktemp("nas")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = {"attic": "http://127.0.0.1:1", "cellar": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        file = home / "hosts.toml"
        file.write_text("".join(f'[hosts.{name}]\nurl = "{url}"\n' for name, url in hosts.items()), encoding="utf-8")
        file.chmod(0o600)
        with running_node(
            "nas", home, engine, ANVYL_LMSTUDIO_URL=NO_MODEL, ANVYL_WATCH="1", ANVYL_WATCH_EVERY="1s"
        ) as started:
            yield started


@pytest.fixture(scope="module")
def signed_in(browser: Browser, node: ServingNode) -> Any:
    """Cookies and storage of a browser that is signed in."""
    with opened(browser) as context:
        page = context.new_page()
        page.goto(one_time_link(node))
        expect(page.locator("#columns")).to_be_visible()
        return context.storage_state()


@pytest.fixture
def context(browser: Browser, signed_in: Any) -> Iterator[BrowserContext]:
    with opened(browser, storage_state=signed_in) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext, node: ServingNode) -> Iterator[Page]:
    """The page of `nas`, signed in."""
    errors = Errors()
    page = context.new_page()
    errors.watch(page)
    page.goto(node.url)
    yield page
    assert errors.lines == []
