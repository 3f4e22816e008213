"""The page as an MCP App: a host page in a real browser speaks the extension's messages with the gateway behind it."""

from __future__ import annotations

import json
from typing import Any

import anyio
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID
from mcp_types import ElicitRequestParams, ElicitResult, TextContent, TextResourceContents
from playwright.async_api import async_playwright, expect

from anvyl_mcp.app.gateway import build_gateway
from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from tests.support.browser import ARGUMENTS, PICTURES, SECONDS, chromium
from tests.support.engine.engines import RealEngine

POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "media-src 'self' data:; connect-src 'none'"
)
"""What a client applies to a panel that declares no domains."""
HOST_PAGE = """<!doctype html><title>client</title>
<iframe sandbox="allow-scripts" style="width:900px;height:700px"></iframe>
<script>
const frame = document.querySelector("iframe");
window.seen = [];
const listed = () => callTool({ name: "list_containers", arguments: { all: true } });
const send = (message) => frame.contentWindow.postMessage({ jsonrpc: "2.0", ...message }, "*");
window.addEventListener("message", async ({ source, data }) => {
  if (source !== frame.contentWindow) return;
  window.seen.push(data.method ?? "answer");
  if (data.method === "ui/initialize") {
    const { appInfo, appCapabilities, protocolVersion } = data.params;
    if (!appInfo.name || !appCapabilities) throw new Error("incomplete");
    send({ id: data.id, result: { protocolVersion, hostInfo: { name: "test", version: "1" },
      hostCapabilities: { serverTools: {} }, hostContext: { theme: "dark", displayMode: "inline" } } });
  } else if (data.method === "ui/notifications/initialized") {
    send({ method: "ui/notifications/tool-input", params: { arguments: { all: true } } });
    send({ method: "ui/notifications/tool-result", params: await listed() });
  } else if (data.method === "tools/call") {
    send({ id: data.id, result: await callTool(data.params) });
  } else if (data.id !== undefined && data.method) {
    send({ id: data.id, error: { code: -32601, message: "not supported" } });
  }
});
</script>"""


async def test_the_panel_shows_the_fleet_and_its_buttons_need_the_persons_consent(engine: RealEngine) -> None:
    engine.run("web")
    engine.run("db")
    prompts: list[str] = []
    answers = ["decline", "accept"]

    async def person(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        prompts.append(params.message)
        return ElicitResult(action="accept" if answers.pop(0) == "accept" else "decline", content={})

    node = Node(load())
    path = chromium()
    try:
        async with Client(build_gateway(node), elicitation_callback=person) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            shown = {name for name, tool in tools.items() if (tool.meta or {}).get("ui")}
            assert shown == {"list_containers", "get_host_resources", "list_updates"}
            [panel] = (await client.list_resources()).resources
            assert tools["list_containers"].meta == {"ui": {"resourceUri": str(panel.uri)}}
            assert panel.mime_type == APP_MIME_TYPE
            assert EXTENSION_ID in (client.server_capabilities.extensions or {})
            [document] = (await client.read_resource(panel.uri)).contents
            assert isinstance(document, TextResourceContents) and document.mime_type == APP_MIME_TYPE

            async def call_tool(params: dict[str, Any]) -> Any:
                result = await client.call_tool(params["name"], params["arguments"])
                return result.model_dump(mode="json", by_alias=True, exclude_none=True)

            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
                page = await browser.new_page(viewport={"width": 940, "height": 740})
                errors: list[str] = []
                page.on("pageerror", lambda error: errors.append(str(error)))
                await page.expose_function("callTool", call_tool)
                await page.set_content(HOST_PAGE)
                policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
                html = document.text.replace('<meta charset="utf-8">', f'<meta charset="utf-8">{policy}')
                await page.evaluate("html => { document.querySelector('iframe').srcdoc = html; }", html)
                panel_page = page.frame_locator("iframe")
                waiting = SECONDS * 1000

                await expect(panel_page.get_by_role("button", name="web", exact=True)).to_be_visible(timeout=waiting)
                await expect(panel_page.locator(".gauge").first).to_contain_text("%", timeout=waiting)
                assert await panel_page.locator("html").get_attribute("data-theme") == "dark"
                PICTURES.mkdir(exist_ok=True)
                await page.screenshot(path=PICTURES / "panel.png")

                stop = panel_page.get_by_role("button", name="Stop web")
                for said in ("the person declined", "done"):
                    await stop.click()
                    agree = panel_page.get_by_role("dialog").get_by_role("button", name="Stop")
                    await agree.click()
                    if said == "done":
                        await expect(panel_page.get_by_role("button", name="Start web", exact=True)).to_be_visible(
                            timeout=30_000
                        )
                    else:
                        await expect(panel_page.locator("#notes")).to_contain_text(said, timeout=waiting)
                        assert engine.state("web") == "running"
                assert engine.state("web") == "exited"
                assert len(prompts) == 2 and "Stop web (running)" in prompts[0]

                await panel_page.get_by_role("button", name="db", exact=True).click()
                await expect(panel_page.get_by_role("tab", name="Logs")).to_be_visible()
                await panel_page.get_by_role("button", name="Close").click()
                newer = {"name": "db", "current": "1.0", "available": "1.1", "change": "minor", "held": "", "note": ""}
                found = {"hosts": {node.local.name: {"ok": True, "result": {"updates": [newer]}}}}
                await page.evaluate(
                    "found => send({ method: 'ui/notifications/tool-result', params: { structuredContent: found } })",
                    found,
                )
                await expect(panel_page.get_by_role("button", name="Updates 1")).to_have_attribute(
                    "aria-pressed", "true"
                )
                await panel_page.get_by_role("button", name="Update db").click()
                await expect(panel_page.get_by_role("dialog")).to_contain_text("1.0 → 1.1 (minor)")
                await page.screenshot(path=PICTURES / "panel-updates.png")
                messages = await page.evaluate("window.seen")
                assert messages[:1] == ["ui/initialize"]
                assert {"ui/notifications/initialized", "ui/notifications/size-changed", "tools/call"} <= set(messages)
                assert errors == []
                await browser.close()
            text = await client.call_tool("list_containers", {})
            assert any("db" in block.text for block in text.content if isinstance(block, TextContent))
            assert "db" in json.dumps(text.structured_content)
    finally:
        with anyio.CancelScope(shield=True):
            await node.aclose()
