"""Which tools a host offers: by toolset, by name, in read-only mode, and from plugins."""

from __future__ import annotations

import sys
from contextlib import aclosing
from pathlib import Path

import pytest
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.toolsets import load_tools
from tests.server.tools.test_tools import call, refused
from tests.support.hosts.nodes import ANVYL_MCP, CommandResult, anvyl, run_program

PLUGIN = '''
from anvyl_mcp.server.tool import Result, tool


class Greeting(Result):
    words: str


@tool(say=["greet {name}"])
def greet(name: str) -> Greeting:
    """Greet a person."""
    return Greeting(words=f"hello {name}")


@tool(say=["list containers"])
def list_containers() -> Greeting:
    """Pretend to list containers."""
    return Greeting(words="none")


@tool(say=["wave"], toolset="gestures")
def wave() -> Greeting:
    """Wave."""
    return Greeting(words="o/")
'''


async def offered(**flags: str | bool) -> dict[str, str]:
    """Names of the tools that a server offers, with their toolsets."""
    async with aclosing(Node(load(flags), serving=True)) as here, Client(here.server) as client:
        tools = (await client.list_tools()).tools
    return {tool.name: str(tool.meta["anvyl/tool"]["toolset"]) for tool in tools if tool.meta}


async def test_every_toolset_but_swarm_is_offered_by_default() -> None:
    everything = {tool.name for tool in load_tools() if tool.toolset != "swarm"} | {"list_hosts"}

    assert set(await offered()) == set(await offered(toolsets="default")) == everything


async def test_toolsets_and_single_tools_are_selected_by_name() -> None:
    assert set((await offered(toolsets="networks, volumes")).values()) == {"networks", "volumes", "fleet"}
    chosen = await offered(toolsets="images", tools="list_containers,get_disk_usage")
    assert set(chosen) == {
        "list_containers", "list_images", "pull_image", "remove_image", "get_disk_usage", "list_hosts"
    }  # fmt: skip
    assert await offered(toolsets="all") == await offered(toolsets="all,networks") == await offered()


async def test_a_read_only_host_offers_only_tools_that_read() -> None:
    safe = {tool.name for tool in load_tools() if tool.safety == "reads" and tool.toolset != "swarm"} | {"list_hosts"}

    assert set(await offered(toolsets="all", tools="stop_container", read_only=True)) == safe


async def test_a_call_of_a_disabled_tool_explains_how_to_enable_it() -> None:
    async with (
        aclosing(Node(load({"toolsets": "containers,images"}), serving=True)) as here,
        Client(here.server) as client,
    ):
        error = await refused(client, "create_network", name="home")
        assert error["message"] == f"`create_network` is turned off on {here.settings.name}"
        assert error["hint"].startswith("add `networks` to the --toolsets")
        assert (await refused(client, "create_netwrk"))["message"].startswith("there is no tool")
    async with aclosing(Node(load({"read_only": "yes"}), serving=True)) as here, Client(here.server) as client:
        assert "read-only" in (await refused(client, "stop_container", name="web"))["message"]


def test_the_command_line_may_use_every_toolset() -> None:
    """Without a running server, `anvyl call` starts one in memory, without limits."""
    assert "no Docker engine" in anvyl("call", "list_networks").err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--toolsets", "netwroks"], "did you mean `networks`?"),
        (["--tools", "list_network"], "did you mean `list_networks`"),
    ],
)
def test_an_unknown_name_is_refused_before_serving(arguments: list[str], hint: str) -> None:
    ran: CommandResult = run_program("serve", "--port", "0", "--agent-port", "0", *arguments, program=ANVYL_MCP)

    assert (ran.code, hint in ran.err) == (2, True), ran.err


def test_settings_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANVYL_TOOLSETS", "host,images")
    monkeypatch.setenv("ANVYL_TOOLS", "list_images")
    monkeypatch.setenv("ANVYL_READ_ONLY", "true")

    settings = load()

    assert (settings.toolsets, settings.tools, settings.read_only) == ("host,images", "list_images", True)
    assert load({"toolsets": "host"}).toolsets == "host"
    monkeypatch.setenv("ANVYL_READ_ONLY", "perhaps")
    with pytest.raises(InvalidInput, match="ANVYL_READ_ONLY is `perhaps`"):
        load()


def install(folder: Path, **modules: str) -> None:
    """Install a package as pip would, with one entry point per module."""
    info = folder / "anvyl_greetings-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: anvyl-greetings\nVersion: 1.0\n", encoding="utf-8")
    lines = ["[anvyl_mcp.tools]"]
    for name, source in modules.items():
        (folder / f"anvyl_plugin_{name}.py").write_text(source, encoding="utf-8")
        lines.append(f"{name} = anvyl_plugin_{name}")
    (info / "entry_points.txt").write_text("\n".join([*lines, "gone = anvyl_no_such_module"]), encoding="utf-8")


async def test_plugins_add_tools_and_broken_ones_are_named_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder, manners=PLUGIN, broken="raise SystemExit('no')", empty="x = 1")
    monkeypatch.syspath_prepend(str(folder))

    async with aclosing(Node(load({"toolsets": "all"}), serving=True)) as here, Client(here.server) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert (await call(client, "greet", name="you"))["words"] == "hello you"

    assert listed["greet"].meta and listed["greet"].meta["anvyl/tool"]["toolset"] == "manners"
    assert listed["wave"].meta and listed["wave"].meta["anvyl/tool"]["toolset"] == "gestures"
    assert listed["list_containers"].description != "Pretend to list containers."
    for message in (
        "the plugin `broken` (anvyl_plugin_broken) cannot be loaded",
        "the plugin `gone` (anvyl_no_such_module) cannot be loaded",
        "the plugin `empty` (anvyl_plugin_empty) is skipped",
        "the plugin `manners` may not replace the tool `list_containers`",
    ):
        assert message in caplog.text
    assert set(await offered(toolsets="manners")) == {"greet", "list_hosts"}
    assert "greet" in Node(load()).fleet.catalogue
    for name in [name for name in sys.modules if name.startswith("anvyl_plugin_")]:
        del sys.modules[name]
