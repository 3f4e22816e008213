"""The page in a real browser, with a real host and engine, a host that is down and one that is silent."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from anvyl_mcp.server.http.host_state import HostState
from tests.support.axe import axe_source, serious_findings
from tests.support.browser import Errors, one_time_link, opened, take_picture
from tests.support.engine.engines import RealEngine
from tests.support.hosts.many_hosts import hosts_file
from tests.support.hosts.nodes import NO_MODEL, PYTHON, ServingNode, running_node
from tests.web.pages import host_card, names_on, row

TICKING = ["sh", "-c", "i=0; while true; do i=$((i+1)); echo request $i; sleep 0.3; done"]


@contextmanager
def fifty_hosts(home: Path, engine: RealEngine) -> Iterator[ServingNode]:
    """A host that knows 49 others over TLS, all with the containers of one engine."""
    with subprocess.Popen(
        [PYTHON, "-m", "tests.support.hosts.many_hosts", "49"],
        env={**os.environ, **engine.environment, "ANVYL_HOME": str(home / "many")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            many = json.loads(process.stdout.readline())
            file = home / "nas" / "hosts.toml"
            file.parent.mkdir()
            file.write_text(hosts_file(many["urls"], many["pin"], many["token"]), encoding="utf-8")
            file.chmod(0o600)
            with running_node("nas", file.parent, engine, ANVYL_LMSTUDIO_URL=NO_MODEL) as started:
                yield started
        finally:
            process.stdin.close()
            process.wait(20)


def test_the_link_signs_in_once_and_the_first_look_shows_all_hosts(
    engine: RealEngine, browser: Browser, node: ServingNode
) -> None:
    engine.run("web")
    engine.run("ailing", healthcheck={"test": ["CMD", "false"], "interval": 10**9, "retries": 1})
    engine.create("old-test")
    link, requested, errors = one_time_link(node), list[str](), Errors()
    with opened(browser) as context:
        page = context.new_page()
        errors.watch(page)
        page.on("request", lambda request: requested.append(request.url))
        page.goto(link)

        expect(row(page, "ailing")).to_contain_text("unhealthy")
        assert names_on(page) == ["ailing", "web", "old-test"]
        expect(host_card(page, "attic")).to_contain_text("Down: unreachable: connection refused")
        expect(host_card(page, "cellar")).to_contain_text("Down: ")
        expect(page.locator("#summary")).to_have_text("3 hosts, 2 down · 2 running · 1 needs attention")
        expect(host_card(page, "nas").locator(".gauge").first).to_contain_text(re.compile(r"cpu\d+ %"))
        assert page.url == f"{node.url}/"
        assert {url.partition("#")[0].removeprefix(node.url) for url in requested} <= {
            *("/", "/anvyl.css", "/anvyl.js", "/session", "/agent/fleet", "/agent/call"),
            *(url for url in requested if url.startswith("data:image/svg+xml")),
        }
        for width, height in ((1280, 900), (2560, 1300), (390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
                take_picture(page, f"first-look-{width}-{scheme}")
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{width} px scrolls"
    assert errors.lines == []

    with opened(browser) as context:
        page = context.new_page()
        page.goto(link)
        expect(page.get_by_role("alert")).to_contain_text("already been used by `chrome-linux")
        expect(page.locator("#columns")).to_be_hidden()
        take_picture(page, "sign-in")


def test_search_and_filter(engine: RealEngine, page: Page) -> None:
    engine.run("web")
    engine.run("database")
    engine.create("old-web")
    expect(row(page, "old-web")).to_be_visible()

    page.keyboard.press("/")
    page.keyboard.type("web")
    expect(row(page, "database")).to_be_hidden()
    assert names_on(page) == ["web", "old-web"]
    page.get_by_role("button", name=re.compile("Stopped 1")).click()
    expect(row(page, "web")).to_be_hidden()
    assert names_on(page) == ["old-web"]
    expect(page.locator("#count")).to_have_text("1 container shown")
    page.get_by_role("searchbox", name="Search containers").fill("nothing like it")
    expect(page.locator("#nothing")).to_be_visible()
    page.get_by_role("searchbox", name="Search containers").fill("")
    page.get_by_role("button", name=re.compile("All 3")).click()
    expect(row(page, "database")).to_be_visible()


def test_logs_are_live_and_can_be_filtered(engine: RealEngine, page: Page) -> None:
    engine.run("ticker", TICKING)

    page.get_by_role("button", name="ticker", exact=True).click()
    log = page.get_by_role("log", name="Logs of ticker")
    expect(log).to_contain_text("request 2")
    first = int(log.locator("div").last.inner_text().split()[1])
    expect(log).to_contain_text(f"request {first + 3}")
    take_picture(page, "live-log")
    page.get_by_role("searchbox", name="Filter lines").fill("request 1")
    expect(log.get_by_text("request 2", exact=True)).to_be_hidden()
    page.get_by_role("tab", name="Details").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("busybox:latest")
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    expect(page.get_by_role("button", name="ticker", exact=True)).to_be_focused()
    expect(page).to_have_url(page.url.partition("#")[0])


def test_a_stop_is_asked_for_and_done_as_this_session(engine: RealEngine, page: Page, node: ServingNode) -> None:
    engine.run("web")

    stop = page.get_by_role("button", name="Stop web", exact=True)
    stop.click()
    dialog = page.get_by_role("dialog", name="Stop web (running) on nas?")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    take_picture(page, "confirm")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    assert engine.state("web") == "running"

    stop.click()
    dialog.get_by_role("button", name="Stop").click()
    expect(page.locator("#notes")).to_contain_text("Stopped web on nas")
    expect(page.get_by_role("button", name="Start web", exact=True)).to_be_visible()
    assert engine.state("web") == "exited"
    record = HostState(node.home).records(since=None, tool="stop_container")[-1]
    assert record["who"].startswith("chrome-linux") and record["outcome"] == "ok"

    page.get_by_role("button", name="Start web", exact=True).click()
    expect(stop).to_be_visible()
    assert engine.state("web") == "running"


def test_a_question_proposes_a_change_that_is_approved_in_the_page(engine: RealEngine, page: Page) -> None:
    engine.run("web")
    engine.run("database")
    expect(row(page, "web")).to_be_visible()

    page.get_by_role("textbox", name="Question or order").fill("list containers on nas")
    page.keyboard.press("Enter")
    conversation = page.get_by_role("log", name="Conversation")
    expect(conversation.get_by_role("table")).to_contain_text("database")
    page.get_by_role("textbox", name="Question or order").fill("stop web on nas")
    page.keyboard.press("Enter")
    approve = conversation.get_by_role("button", name="Approve: Stop web (running) on nas")
    expect(approve).to_be_visible()
    take_picture(page, "proposal")
    assert engine.state("web") == "running"
    approve.click()
    expect(conversation.get_by_role("group", name="Waits for your yes")).to_contain_text("Stopped web on nas")
    assert engine.state("web") == "exited"

    page.reload()
    expect(conversation).to_contain_text("list containers on nas")
    expect(conversation.get_by_role("table")).to_contain_text("database")
    page.get_by_role("textbox", name="Question or order").fill("start it again")
    page.keyboard.press("Enter")
    expect(conversation.get_by_role("button", name="Approve: Start web (exited) on nas")).to_be_visible()
    page.get_by_role("button", name="Deny: Start web (exited) on nas").last.click()
    expect(conversation).to_contain_text("Denied; nothing was changed.")
    assert engine.state("web") == "exited"

    page.route("**/agent/process/stream", lambda route: None)
    page.get_by_role("textbox", name="Question or order").fill("which containers are slow?")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(conversation).to_contain_text("Stopped.")
    page.get_by_role("button", name="New conversation").click()
    expect(conversation).not_to_contain_text("list containers on nas")
    page.reload()
    expect(conversation).to_contain_text("Is everything ok?")


def test_what_others_asked_for_waits_here(engine: RealEngine, page: Page, node: ServingNode) -> None:
    engine.run("web")
    expect(row(page, "web")).to_be_visible()

    sent = page.request.post(
        f"{node.url}/agent/call",
        headers={**node.headers, "Content-Type": "application/json"},
        data=json.dumps({"tool": "remove_container", "arguments": {"name": "web", "force": True}, "host": "nas"}),
    )
    assert sent.status == 202

    waiting = page.get_by_role("region", name="Waiting for your yes")
    expect(waiting).to_contain_text("Remove container web (running)")
    expect(waiting).to_contain_text("asked by local")
    take_picture(page, "waiting")
    waiting.get_by_role("button", name=re.compile("^Approve")).click()
    expect(waiting).to_be_hidden()
    expect(row(page, "web")).to_be_hidden()
    assert engine.state("web") is None


def test_two_tabs_show_the_same_and_sign_out_together(engine: RealEngine, browser: Browser, node: ServingNode) -> None:
    engine.run("web")
    with opened(browser) as context:
        one, other = context.new_page(), context.new_page()
        one.goto(one_time_link(node))
        other.goto(node.url)
        expect(row(other, "web")).to_be_visible()

        engine.api.stop("web", timeout=0)
        for tab in (one, other):
            expect(tab.get_by_role("button", name="Start web", exact=True)).to_be_visible()
        one.get_by_role("button", name="Sign out").click()
        for tab in (one, other):
            expect(tab.get_by_role("alert")).to_have_text("You are signed out.")
            expect(row(tab, "web")).to_be_hidden()


def test_a_tab_in_the_background_asks_for_nothing_and_catches_up(
    engine: RealEngine, context: BrowserContext, node: ServingNode
) -> None:
    engine.run("ticker", TICKING)
    page = context.new_page()
    page.clock.install()
    page.goto(node.url)
    page.get_by_role("button", name="ticker", exact=True).click()
    log = page.get_by_role("log", name="Logs of ticker")
    expect(log).to_contain_text("request 2")

    def set_hidden(hidden: bool) -> None:
        page.evaluate(
            "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true }); "
            "document.dispatchEvent(new Event('visibilitychange')); }",
            hidden,
        )

    with page.expect_event("requestfailed", lambda request: request.url.endswith("/agent/fleet")):
        set_hidden(True)
        page.clock.run_for("01:00")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.fast_forward("05:00:00")
    engine.run("newcomer")
    page.clock.run_for("10:00")
    assert asked == []

    set_hidden(False)
    seen = int(log.locator("div").last.inner_text().split()[1])
    expect(log).to_contain_text(f"request {seen + 20}")
    page.keyboard.press("Escape")
    expect(row(page, "newcomer")).to_be_visible()


def test_text_of_others_is_never_html(engine: RealEngine, page: Page) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    line = f"{evil} **bold** `code` \\033[31mred\\033[0m \u202egpj"
    labels = {"com.docker.compose.project": evil, "note": evil}
    engine.run("web", ["sh", "-c", f"printf '{line}\\n'; sleep 3600"], labels=labels, environment={"NOTE": evil})

    page.get_by_role("button", name="web", exact=True).click()
    log = page.get_by_role("log", name="Logs of web")
    expect(log).to_contain_text(f"{evil} **bold** `code` red")
    assert not set(log.inner_text()) & {"\x1b", "\u202e"}
    take_picture(page, "hostile-log")
    page.get_by_role("tab", name="Details").click()
    expect(page.get_by_role("tabpanel")).to_contain_text(f"note={evil}")
    page.keyboard.press("Escape")
    page.get_by_role("textbox", name="Question or order").fill("show the logs of web")
    page.keyboard.press("Enter")
    expect(page.get_by_role("log", name="Conversation")).to_contain_text("<script>alert(1)</script>")
    assert page.locator("main img, dialog img, body script").count() == 0


def test_an_ended_session_says_so_and_how_to_sign_in_again(
    engine: RealEngine, browser: Browser, node: ServingNode
) -> None:
    engine.run("web")
    with opened(browser) as context:
        page = context.new_page()
        page.goto(one_time_link(node))
        expect(row(page, "web")).to_be_visible()
        state = HostState(node.home)
        session = state.tokens.list()[-1]
        assert (session.browser, sorted(session.scopes), session.expires is not None) == (
            True,
            ["operate", "read"],
            True,
        )

        state.revoke(session.id)

        expect(page.get_by_role("alert")).to_contain_text(f"the session `{session.name}` was revoked")
        expect(page.get_by_role("alert")).to_contain_text("anvyl web")
        expect(row(page, "web")).to_be_hidden()
        page.get_by_label("Or paste a link or a token").fill(one_time_link(node))
        page.get_by_role("button", name="Sign in").click()
        expect(row(page, "web")).to_be_visible()


def test_a_session_that_may_only_look_offers_no_changes(
    engine: RealEngine, browser: Browser, node: ServingNode
) -> None:
    engine.run("web")
    with opened(browser) as context:
        page = context.new_page()
        page.goto(one_time_link(node, scope="read"))
        expect(row(page, "web")).to_be_visible()
        expect(row(page, "web").get_by_role("button")).to_have_count(1)


def test_the_page_survives_restarts_of_engine_and_server(engine: RealEngine, page: Page, node: ServingNode) -> None:
    engine.run("web")
    expect(row(page, "web")).to_be_visible()

    engine.stop()
    expect(host_card(page, "nas")).to_contain_text("No containers: ")
    take_picture(page, "engine-down")
    engine.start()
    expect(row(page, "web")).to_be_visible()

    node.restart()
    expect(page.locator("#live")).to_have_text("Live")
    engine.api.start("web")
    expect(page.get_by_role("button", name="Stop web", exact=True)).to_be_visible()


def test_on_a_phone_everything_is_within_reach(
    engine: RealEngine, browser: Browser, signed_in: Any, node: ServingNode
) -> None:
    engine.run("a-container-with-quite-a-long-name-that-goes-on-and-on")
    with opened(browser, storage_state=signed_in, viewport={"width": 390, "height": 844}, has_touch=True) as context:
        page = context.new_page()
        page.goto(node.url)
        expect(row(page, "a-container-with-quite-a-long-name-that-goes-on-and-on")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        stop = page.get_by_role("button", name=re.compile("^Stop a-container")).bounding_box()
        assert stop and stop["height"] >= 32 and stop["x"] + stop["width"] <= 390
        expect(page.locator("#ask")).to_be_hidden()
        page.get_by_role("navigation", name="Parts of the page").get_by_role("button", name="Ask").tap()
        expect(page.get_by_role("textbox", name="Question or order")).to_be_visible()
        take_picture(page, "phone-ask")
        page.get_by_role("navigation", name="Parts of the page").get_by_role("button", name="Hosts").tap()
        page.get_by_role("button", name=re.compile("^a-container")).tap()
        expect(page.get_by_role("dialog")).to_be_visible()
        take_picture(page, "phone-container")


def test_colours_follow_the_system_or_the_choice(page: Page) -> None:
    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))

    page.emulate_media(color_scheme="light")
    light = background()
    page.emulate_media(color_scheme="dark")
    dark = background()
    assert light != dark
    page.get_by_role("button", name="Colours: as the system").click()
    assert background() == light
    page.reload()
    expect(page.get_by_role("button", name="Colours: light")).to_be_visible()
    assert background() == light
    page.get_by_role("button", name="Colours: light").click()
    assert background() == dark


def test_no_serious_finding_of_axe(engine: RealEngine, browser: Browser, page: Page, node: ServingNode) -> None:
    axe = axe_source()
    engine.run("web", TICKING, labels={"com.docker.compose.project": "shop"})
    engine.run("ailing", healthcheck={"test": ["CMD", "false"], "interval": 10**9, "retries": 1})
    engine.create("old-test")
    expect(row(page, "ailing")).to_contain_text("unhealthy")
    expect(page.get_by_role("list", name="Stack shop on nas")).to_be_visible()
    findings = serious_findings(page, axe)
    page.emulate_media(color_scheme="dark")
    findings += serious_findings(page, axe)
    page.get_by_role("button", name="web", exact=True).click()
    for tab in ("Logs", "Usage", "Details"):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tabpanel")).not_to_be_empty()
        findings += serious_findings(page, axe)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Stop web", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    findings += serious_findings(page, axe)
    page.get_by_role("button", name="Cancel").click()
    with opened(browser) as context:
        stranger = context.new_page()
        stranger.goto(node.url)
        expect(stranger.locator("#sign-in")).to_be_visible()
        findings += serious_findings(stranger, axe)

    assert findings == []


def test_everything_can_be_reached_with_the_keyboard(engine: RealEngine, page: Page) -> None:
    engine.run("web")
    expect(page.get_by_role("button", name="Stop web", exact=True)).to_be_visible()

    focused = []
    for _ in range(30):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim()"))
    assert focused[0] == "Skip to the hosts"
    order = [focused.index(name) for name in ("Colours: as the system", "Sign out", "web", "Restart web", "Stop web")]
    assert order == sorted(order)

    page.get_by_role("button", name=re.compile("^Notices")).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Notices")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name=re.compile("^Notices"))).to_be_focused()
    page.get_by_role("button", name="Stop web", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Start web", exact=True)).to_be_visible()
    assert engine.state("web") == "exited"


@pytest.mark.long
def test_fifty_hosts_with_a_thousand_containers_come_quickly(
    engine: RealEngine, browser: Browser, tmp_path: Path
) -> None:
    for number in range(20):
        engine.create(f"service-{number}", labels={"com.docker.compose.project": f"stack-{number // 5}"})
    with fifty_hosts(tmp_path, engine) as many, opened(browser) as context:
        page = context.new_page()
        network = context.new_cdp_session(page)
        received: list[float] = []
        network.send("Network.enable")
        network.on("Network.dataReceived", lambda event: received.append(event["encodedDataLength"]))
        network.on("Network.responseReceived", lambda event: received.append(event["response"]["encodedDataLength"]))
        page.goto(one_time_link(many))
        expect(page.locator(".rows li")).to_have_count(1000, timeout=60_000)
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        take_picture(page, "fifty-hosts")

        assert paint <= 1000, f"first paint after {paint:.0f} ms"
        assert sum(received) <= 150_000, f"{sum(received) / 1000:.0f} kB"
