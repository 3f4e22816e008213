"""Parts of the page."""

from __future__ import annotations

from playwright.sync_api import Locator, Page


def host_card(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def names_on(page: Page, host: str = "nas") -> list[str]:
    return host_card(page, host).locator(".name button:not(.badge)").all_inner_texts()


def row(page: Page, name: str) -> Locator:
    return page.locator(".rows li").filter(has=page.get_by_role("button", name=name, exact=True))
