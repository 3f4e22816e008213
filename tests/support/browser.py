"""A real browser for the page: Debian's chromium, driven by playwright. Pictures go to a temporary folder."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from anvyl_mcp.app.invite import create_local_link
from anvyl_mcp.core.settings import load
from tests.support.hosts.nodes import ServingNode

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PICTURES = Path(tempfile.gettempdir()) / f"anvyl-pictures-{os.getuid()}"
SECONDS = 20
"""For what the page should show at once, on a machine that is busy with other tests."""


def chromium() -> str:
    """Path of the browser; skips the test where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip(
            "THE PAGE WAS NOT TESTED IN A BROWSER: chromium is not installed; scripts/test installs it on Debian"
        )
    return found


def one_time_link(node: ServingNode, scope: str = "read,operate", **settings: Any) -> str:
    """What `anvyl web --print` prints."""
    home = str(node.home)
    link = create_local_link(
        load(None, {"ANVYL_HOME": home}), scope=scope, seconds=60, **{"private": False, **settings}
    )
    return str(link["url"])


def take_picture(page: Page, name: str) -> None:
    """Keep a picture of the page as an artefact."""
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


@dataclass
class Errors:
    """What a page complained about."""

    lines: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Collect errors of a page; a failed request for what the server refused is not one."""
        page.on("pageerror", lambda error: self.lines.append(str(error)))
        page.on(
            "console",
            lambda message: (
                self.lines.append(message.text)
                if message.type in ("error", "warning") and "Failed to load resource" not in message.text
                else None
            ),
        )


@dataclass
class ForeignSite:
    """A web server on another port of this machine: serves one document, and keeps the headers of each request."""

    document: str
    seen: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def foreign_site(
    document: str = "<!doctype html><title>elsewhere</title>", host: str = "127.0.0.1"
) -> Iterator[ForeignSite]:
    """Serve a document on a free port."""
    site = ForeignSite(document)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.seen.append({name.lower(): value for name, value in self.headers.items()})
            body = site.document.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer((host, 0), Handler)
    site.url = f"http://{host}:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def opened(browser: Browser, **options: Any) -> Iterator[BrowserContext]:
    """A fresh profile of the browser."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(SECONDS * 1000)
    try:
        yield context
    finally:
        context.close()
