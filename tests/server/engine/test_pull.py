"""Pulling images from a real registry."""

from __future__ import annotations

from contextlib import aclosing

import anyio
import pytest
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.settings import load
from tests.server.tools.test_tools import call
from tests.support.engine.engines import RealEngine
from tests.support.engine.registry import registry


async def test_an_image_is_pulled_with_progress_and_runs(engine: RealEngine) -> None:
    if not engine.private:
        pytest.skip("needs a private engine for the registry")
    seen: list[tuple[float, str]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, message or ""))

    with registry(engine) as image:
        async with aclosing(Node(load())) as here, Client(here.server) as client:
            pulled = await client.call_tool("pull_image", {"image": image}, progress_callback=note)
            assert not pulled.is_error, pulled.content
            assert any(image in one["tags"] for one in (await call(client, "list_images"))["images"])
            made = await call(client, "create_container", image=image, name="app")
            assert made["state"] == "running"
            await call(client, "remove_container", name="app", force=True)
            await call(client, "remove_image", image=image)
            # The image is missing again: create_container pulls it.
            assert (await call(client, "create_container", image=image, name="app"))["state"] == "running"
            await call(client, "remove_container", name="app", force=True)
            await call(client, "remove_image", image=image)

    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert not seen or "pulling" in seen[-1][1] or image in seen[-1][1]


BIG = 12_000_000


async def test_a_large_pull_reports_bytes(engine: RealEngine) -> None:
    if not engine.private:
        pytest.skip("needs a private engine for the registry")
    seen: list[tuple[float, float | None, str]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message or ""))

    with registry(engine, padding=BIG) as image:
        async with aclosing(Node(load())) as here, Client(here.server) as client:
            assert not (await client.call_tool("pull_image", {"image": image}, progress_callback=note)).is_error
            await call(client, "remove_image", image=image)

    with_bytes = [(done, total or 0, message) for done, total, message in seen if total]
    assert len(with_bytes) >= 3
    assert all(0 < done <= total and f"pulling {image}: " in message for done, total, message in with_bytes)
    assert max(total for _, total, _ in with_bytes) >= BIG


async def test_a_cancelled_pull_stops_and_can_be_repeated(engine: RealEngine) -> None:
    if not engine.private:
        pytest.skip("needs a private engine for the registry")
    scope = anyio.CancelScope()

    async def cancel(progress: float, total: float | None, message: str | None) -> None:
        if total:
            scope.cancel()

    with registry(engine, padding=BIG) as image:
        async with aclosing(Node(load())) as here, Client(here.server) as client:
            with scope:
                cancelled = await client.call_tool("pull_image", {"image": image}, progress_callback=cancel)
                assert (cancelled.meta or {})[protocol_keys.ERROR]["code"] == "cancelled"
            assert scope.cancel_called
            assert not any(image in one["tags"] for one in (await call(client, "list_images"))["images"])
            assert (await call(client, "pull_image", image=image))["new"]
            await call(client, "remove_image", image=image)
