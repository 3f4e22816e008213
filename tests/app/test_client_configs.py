"""`anvyl-mcp install` adds our entry to the settings of desktop assistants and keeps everything else."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from anvyl_mcp.app.client_configs import CLIENTS, config_file
from tests.support.hosts.nodes import ANVYL_MCP, CommandResult, run_program, write_hosts_file

WRITTEN = sorted(client for client, one in CLIENTS.items() if one.form != "shown")


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder."""
    home = tmp_path / "desk"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    return home


def install(*arguments: str, **environment: str) -> CommandResult:
    return run_program("install", *arguments, program=ANVYL_MCP, seconds=60, **environment)


def settings_of(client: str, content: str) -> Path:
    file = config_file(CLIENTS[client], os.environ)
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file


def servers(client: str, file: Path) -> dict[str, Any]:
    content = file.read_text(encoding="utf-8")
    document = tomllib.loads(content) if file.suffix == ".toml" else json.loads(content)
    found: dict[str, Any] = document[CLIENTS[client].key]
    return found


def others(client: str) -> str:
    if CLIENTS[client].form == "toml":
        return f'# mine\nmodel = "gpt"\n\n[{CLIENTS[client].key}.other]\ncommand = "other"\n'
    return json.dumps({"theme": "dunkelgrün", CLIENTS[client].key: {"other": {"command": "other"}}}, indent="\t")


@pytest.mark.parametrize("client", WRITTEN)
def test_the_entry_is_added_once_and_the_rest_is_kept(client: str) -> None:
    write_hosts_file("nas", "http://127.0.0.1:1")
    before = others(client)
    file = settings_of(client, before)
    file.chmod(0o600)

    first, second = install(client), install(client)

    assert (first.code, second.code) == (0, 0), first.err
    assert f"restart {CLIENTS[client].title}" in first.err and "already has this entry" in second.err
    assert list(servers(client, file)) == ["other", "anvyl"]
    entry = servers(client, file)["anvyl"]
    assert Path(entry["command"]).is_absolute() and Path(entry["command"]).samefile(ANVYL_MCP)
    assert (entry["args"], entry["env"]["ANVYL_HOME"]) == (["gateway"], os.environ["ANVYL_HOME"])
    [backup] = file.parent.glob(f"{file.name}.*.bak")
    assert backup.read_text(encoding="utf-8") == before
    assert file.stat().st_mode & 0o777 == 0o600
    kept = file.read_text(encoding="utf-8")
    assert ("# mine" in kept) if file.suffix == ".toml" else ("dunkelgrün" in kept and '\n\t"theme"' in kept)


async def test_the_written_entry_starts_the_gateway(desk: Path) -> None:
    """A desktop program has neither our PATH nor our environment."""
    (desk / ".config" / "Claude").mkdir(parents=True)
    write_hosts_file("down", "http://127.0.0.1:1")
    written = install("claude-desktop", "--read-only", ANVYL_NAME="here", DOCKER_HOST="unix:///nowhere.sock")
    assert written.code == 0, written.err
    [entry] = json.loads((desk / ".config/Claude/claude_desktop_config.json").read_text("utf-8"))["mcpServers"].values()

    parameters = StdioServerParameters(
        command=entry["command"], args=entry["args"], env={**entry["env"], "PATH": "/usr/bin"}
    )
    with anyio.fail_after(120):
        async with Client(parameters) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            hosts = await client.call_tool("list_hosts", {})

    assert "list_containers" in tools and "stop_container" not in tools
    assert hosts.structured_content is not None
    assert [row["name"] for row in hosts.structured_content["hosts"]] == ["here", "down"]


@pytest.mark.parametrize(
    ("client", "content"),
    [
        ("zed", '// mine\n{"theme": "x"}'),
        ("vscode", "[]"),
        ("cursor", '{"mcpServers": []}'),
        ("codex", "mcp_servers = 1"),
        ("codex", "[broken"),
    ],
)
def test_settings_that_we_could_damage_are_not_changed(client: str, content: str) -> None:
    file = settings_of(client, content)

    done = install(client)

    assert done.code == 1
    assert "was not changed" in done.err and f"anvyl-mcp install {client} --print" in done.err
    assert file.read_text(encoding="utf-8") == content and list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("flag", ["--print", "--dry-run"])
def test_print_and_dry_run_write_nothing(flag: str) -> None:
    file = settings_of("cursor", "{}")

    done = install("cursor", flag, "--toolsets", "networks")

    assert json.loads(done.out)["mcpServers"]["anvyl"]["args"] == ["gateway", "--toolsets", "networks"]
    assert "nothing was written" in done.err and str(file) in done.err
    assert file.read_text(encoding="utf-8") == "{}" and list(file.parent.iterdir()) == [file]


def test_a_password_is_not_copied_into_the_entry() -> None:
    file = settings_of("cursor", "")

    done = install("cursor", DOCKER_HOST="tcp://me:hunter2@nas:2376", ANVYL_LLM_API_KEY="sk-hidden")

    assert done.code == 0 and "DOCKER_HOST contains a password" in done.err
    assert not {"hunter2", "sk-hidden"} & set(file.read_text(encoding="utf-8").split('"'))
    assert "hunter2" not in file.read_text(encoding="utf-8")


def test_a_symlink_is_kept(desk: Path) -> None:
    (desk / "dotfiles").mkdir()
    real = desk / "dotfiles" / "mcp.json"
    real.write_text("{}", encoding="utf-8")
    (desk / ".cursor").mkdir()
    (desk / ".cursor" / "mcp.json").symlink_to(real)

    assert install("cursor").code == 0

    assert (desk / ".cursor" / "mcp.json").is_symlink() and "anvyl" in servers("cursor", real)


def test_an_unknown_or_missing_assistant_is_an_error() -> None:
    missing, unknown, claude = install("cursor"), install("curser", "--json"), install("claude-code")

    assert missing.code == 1 and "Cursor has no settings file at" in missing.err and "--print" in missing.err
    assert unknown.code == 2 and unknown.json["error"]["hint"].startswith("did you mean `cursor`?")
    assert claude.code == 1, "a home folder alone is no sign of it"


def test_an_unwritable_settings_file_is_an_error(desk: Path) -> None:
    (desk / ".cursor" / "mcp.json").mkdir(parents=True)

    done = install("cursor")

    assert done.code == 1 and "cannot be written: Is a directory" in done.err


def test_the_list_of_assistants_shows_which_are_installed() -> None:
    settings_of("cursor", "{}")
    settings_of("lmstudio", "{}")
    assert install("lmstudio").code == 0

    listed: Mapping[str, str] = {one["client"]: one["state"] for one in install("--json").json["clients"]}

    assert (listed["cursor"], listed["lmstudio"], listed["vscode"]) == ("found", "set up", "not found")
    assert "json" not in listed


@pytest.mark.parametrize(
    ("client", "system", "where"),
    [
        ("claude-desktop", "darwin", "Library/Application Support/Claude/claude_desktop_config.json"),
        ("claude-desktop", "win32", "AppData/Roaming/Claude/claude_desktop_config.json"),
        ("claude-desktop", "linux", ".config/Claude/claude_desktop_config.json"),
        ("vscode", "darwin", "Library/Application Support/Code/User/mcp.json"),
        ("zed", "darwin", ".config/zed/settings.json"),
        ("zed", "win32", "AppData/Roaming/Zed/settings.json"),
        ("lmstudio", "win32", ".lmstudio/mcp.json"),
    ],
)
def test_the_path_of_the_settings_depends_on_the_system(client: str, system: str, where: str, desk: Path) -> None:
    assert config_file(CLIENTS[client], {}, system) == desk / where
