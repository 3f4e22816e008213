"""Other pages and other ports of this machine, in a real browser: they get nothing from the page of a host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import foreign_site, one_time_link, opened
from tests.support.hosts.nodes import NO_MODEL, ServingNode, running_node


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    """A host without an engine."""
    home, no_engine = tmp_path_factory.mktemp("alone"), "unix:///nonexistent/docker.sock"
    with running_node("alone", home, DOCKER_HOST=no_engine, ANVYL_LMSTUDIO_URL=NO_MODEL) as node:
        yield node


def status(node: ServingNode, headers: dict[str, str]) -> int:
    return httpx.get(
        f"{node.url}/session", headers={"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin", **headers}
    ).status_code


def test_other_pages_can_neither_call_nor_frame_nor_script_it(browser: Browser, alone: ServingNode) -> None:
    refused: dict[str, int] = {}
    with opened(browser) as context, foreign_site() as site:
        context.new_page().goto(one_time_link(alone))
        page = context.new_page()
        page.on("response", lambda response: refused.update({response.url.removeprefix(alone.url): response.status}))
        page.goto(site.url)
        attempt = """async ([url, options]) => {
            try { return (await fetch(url, options)).type; }
            catch { return "refused"; }
        }"""
        stop = json.dumps({"tool": "stop_container", "arguments": {"name": "web"}, "approve": True})
        for path, options in (
            ("/agent/call", {"method": "POST", "body": stop, "headers": {"Content-Type": "application/json"}}),
            ("/agent/call?simple", {"method": "POST", "body": stop, "mode": "no-cors"}),
            ("/agent/info", {"mode": "no-cors"}),
            ("/session", {"headers": {"X-Anvyl-Session": "x"}}),
            ("/anvyl.js", {"mode": "no-cors"}),
        ):
            assert page.evaluate(attempt, [alone.url + path, {**options, "credentials": "include"}]) in (
                "refused",
                "opaque",
            )
        page.evaluate(
            "url => { const frame = document.createElement('iframe'); frame.src = url; document.body.append(frame); }",
            f"{alone.url}/",
        )
        expect(page.locator("iframe")).to_have_count(1)
        page.wait_for_timeout(300)
        framed = [frame for frame in page.frames if frame != page.main_frame]
        assert all("Anvyl" not in frame.content() for frame in framed)
        assert {path: code for path, code in refused.items() if path != site.url} and all(
            code in (401, 403, 415) for path, code in refused.items() if not path.startswith("http")
        ), refused

        # A link that a person follows opens the page in its own tab, without the cookie of the session.
        page.goto(site.url)
        page.evaluate(
            "url => { const link = document.createElement('a'); link.href = url; link.id = 'go'; "
            "link.textContent = 'go'; document.body.append(link); }",
            f"{alone.url}/",
        )
        page.click("#go")
        expect(page).to_have_title("Anvyl")
        expect(page.locator("#columns")).to_be_visible()


def test_another_port_gets_the_cookie_and_can_do_nothing_with_it(browser: Browser, alone: ServingNode) -> None:
    """Browsers send cookies to every port of a host, so the cookie must not be enough."""
    with opened(browser) as context, foreign_site() as site:
        page = context.new_page()
        page.goto(one_time_link(alone))
        expect(page.locator("#columns")).to_be_visible()
        thief = context.new_page()
        thief.goto(site.url)
        stolen = next(headers["cookie"] for headers in site.seen if "anvyl-" in headers.get("cookie", ""))
        assert thief.evaluate("localStorage.length") == 0 and thief.evaluate("document.cookie") == ""
    [(name, value)] = re.findall(r"(anvyl-[0-9a-f]+)=([\w-]+)", stolen)
    identity = name.removeprefix("anvyl-")

    assert status(alone, {"Cookie": stolen}) == 401
    assert status(alone, {"Cookie": stolen, "X-Anvyl-Session": f"{identity}.{'A' * 32}"}) in (401, 429)
    assert status(alone, {"Authorization": f"Bearer anv_{identity}_{value}"}) in (401, 429)
