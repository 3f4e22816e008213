"""Updates from a real registry and the notices of a real watch, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from anvyl_mcp.server.http.host_state import HostState
from tests.support.browser import SECONDS, opened, take_picture
from tests.support.engine.daemon import UnavailableError
from tests.support.engine.engines import RealEngine
from tests.support.engine.tag_registry import TagRegistry, tag_registry
from tests.support.hosts.nodes import ServingNode, run_program
from tests.web.pages import row

HEALTHY = {"test": ["CMD", "test", "-e", "/tmp/ok"], "interval": 2 * 10**8, "retries": 1}


@pytest.fixture(scope="module")
def registry(engine: RealEngine) -> Iterator[TagRegistry]:
    if not engine.private:
        pytest.skip("needs a private engine for the registry")
    try:
        with tag_registry(engine) as running:
            yield running
    except UnavailableError as error:
        pytest.skip(str(error))


def version(engine: RealEngine, name: str) -> str:
    return str(engine.api.inspect_container(name)["Config"]["Labels"]["org.opencontainers.image.version"])


def look_for_updates(page: Page) -> None:
    page.get_by_role("button", name="Check for updates").click()
    expect(page.locator("#notes")).to_contain_text("1 update available.")


def test_an_update_is_found_approved_and_taken_back_when_it_crashes(
    engine: RealEngine, registry: TagRegistry, page: Page
) -> None:
    registry.push("app:1", version="1.0.0")
    engine.api.pull(registry.image("app:1"))
    engine.run("web", image=registry.image("app:1"), healthcheck={"test": ["CMD", "true"], "interval": 2 * 10**8})
    engine.run("other")
    registry.push("app:1", version="1.1.0")
    expect(row(page, "web")).to_be_visible()

    look_for_updates(page)
    expect(row(page, "web").get_by_role("button", name="Update web")).to_have_text("update")
    page.get_by_role("button", name="Updates 1").click()
    expect(row(page, "other")).to_be_hidden()
    take_picture(page, "updates")
    row(page, "web").get_by_role("button", name="Update web").click()
    dialog = page.get_by_role("dialog", name=re.compile("Update .*web"))
    expect(dialog).to_contain_text("1.0.0 → 1.1.0 (minor)")
    expect(dialog).to_contain_text("the old one comes back")
    take_picture(page, "update-confirm")
    dialog.get_by_role("button", name="Update").click()
    expect(row(page, "web").locator(".status")).to_contain_text("updating…")
    expect(page.locator("#notes")).to_contain_text("Updated web")
    expect(row(page, "web").get_by_role("button", name="Update web")).to_be_hidden()
    assert version(engine, "web") == "1.1.0"

    registry.push("app:1", version="1.2.0", command=["sh", "-c", "echo no database; exit 3"])
    page.get_by_role("button", name=re.compile("^All")).click()
    look_for_updates(page)
    page.get_by_role("button", name="web", exact=True).click()
    detail = page.get_by_role("dialog", name="web")
    expect(detail).to_contain_text("Update: 1.1.0 → 1.2.0")
    detail.get_by_role("button", name="Update web").click()
    page.get_by_role("dialog", name=re.compile("Update .*web")).get_by_role("button", name="Update").click()
    expect(detail.locator("#detail-state")).to_contain_text("updating…")
    expect(page.locator("#notes")).to_contain_text("web runs as before, with its old image")
    expect(page.locator("#notes")).to_contain_text("ended with exit code 3")
    expect(detail.locator("#notes")).to_be_visible()
    expect(detail).to_contain_text("Update failed: 1.1.0 → 1.2.0")
    take_picture(page, "update-failed")
    page.keyboard.press("Escape")
    expect(row(page, "web").get_by_role("button", name="Update web")).to_have_text("update failed")
    assert version(engine, "web") == "1.1.0" and engine.state("web") == "running"


def bell(page: Page) -> Locator:
    return page.get_by_role("button", name=re.compile("^Notices:"))


def test_notices_of_the_watch_are_shown_with_what_is_over_or_muted(
    engine: RealEngine, browser: Browser, node: ServingNode, page: Page
) -> None:
    def notify(*words: str) -> None:
        assert run_program("notify", *words, ANVYL_HOME=str(node.home)).code == 0

    engine.run("sick", healthcheck=HEALTHY)

    bell(page).click()
    notices = page.get_by_role("region", name="Notices")
    problem = notices.get_by_role("listitem").filter(has_text="sick on nas is unhealthy")
    expect(problem).to_contain_text("Problem: ")
    expect(notices.get_by_role("listitem").filter(has_text="attic")).to_contain_text("connection refused")
    expect(notices.get_by_role("listitem").filter(has_text="cellar")).to_be_visible(timeout=2 * SECONDS * 1000)
    expect(bell(page)).to_have_accessible_name("Notices: 3 problems")
    take_picture(page, "notices")

    notify("mute", "1h", "sick", "--host", "nas")
    expect(problem).to_contain_text("muted")
    expect(bell(page)).to_have_accessible_name("Notices: 2 problems, 1 muted")
    with opened(browser) as context:
        alone = context.new_page()
        alone.goto(f"{node.url}/#sign-in={HostState(node.home).browser_link('read', 60, relay=False)[1]}")
        expect(bell(alone)).to_have_accessible_name("Notices: 0 problems, 1 muted")
        expect(alone.locator("#notices-list li").filter(has_text="sick")).to_have_count(1)
        expect(alone.locator("#notices-list li").filter(has_text=re.compile("attic|cellar"))).to_have_count(0)

    engine.output("sick", "touch /tmp/ok")
    over = notices.get_by_role("listitem").filter(has_text="sick on nas is no longer unhealthy")
    expect(over).to_contain_text("Over: ")
    expect(problem).to_be_hidden()
    over.get_by_role("button").click()
    expect(page.get_by_role("dialog", name="sick")).to_be_visible()
    expect(notices).to_be_hidden()
    notify("unmute")
