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
import yaml  # type: ignore[import-untyped]  # its stubs are another package
from hypothesis import given
from hypothesis import strategies as some
from mcp import Client, StdioServerParameters

from anvyl_mcp.app.client_configs import CLIENTS, Launch, config_file
from anvyl_mcp.app.config_edits import jsonc, yaml_blocks
from anvyl_mcp.app.config_edits.edit_errors import UnsupportedConfig
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


def uninstall(*arguments: str) -> CommandResult:
    return run_program("uninstall", *arguments, program=ANVYL_MCP, seconds=60)


def settings_of(client: str, content: str) -> Path:
    file = config_file(CLIENTS[client], os.environ)
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file


def servers(client: str, file: Path) -> dict[str, Any]:
    """The entries of a config file by name, as the client reads them."""
    content = file.read_text(encoding="utf-8")
    if CLIENTS[client].form == "toml":
        document = tomllib.loads(content)
    elif CLIENTS[client].form.startswith("yaml"):
        document = yaml.safe_load(content)
    else:
        document = jsonc.parse(content)
    found = document[CLIENTS[client].key]
    return {one["name"]: one for one in found} if isinstance(found, list) else dict(found)


def launch_of(client: str, entry: Mapping[str, Any]) -> Launch:
    """Command line and environment of an entry, whatever its client calls them."""
    if client == "opencode":
        command, *arguments = entry["command"]
        return Launch(command, arguments, entry["environment"])
    return Launch(entry.get("command") or entry["cmd"], entry["args"], entry.get("env") or entry["envs"])


def others(client: str) -> str:
    one = CLIENTS[client]
    if one.form == "toml":
        return f'# mine\nmodel = "gpt"\n\n[{one.key}.other]\ncommand = "other"\n'
    if one.form == "yaml":
        return f"# mine\ntheme: x\n{one.key}:\n  # not used: x\n  other:\n    command: other # mine too\n# end\nz: 1\n"
    if one.form == "yaml-list":
        return f"# mine\nname: x\n{one.key}:\n- name: other # mine too\n  command: other\n# end\nz: 1\n"
    entry = {"type": "local", "command": ["other"]} if client == "opencode" else {"command": "other"}
    text = json.dumps({"theme": "dunkelgrün", one.key: {"other": entry}}, indent="\t", ensure_ascii=False)
    return f"// mine\n{text}\n// end\n"


def test_every_entry_is_added_once_and_removed_again_and_the_rest_is_kept(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    write_hosts_file("nas", "http://127.0.0.1:1")
    files = {client: settings_of(client, others(client)) for client in WRITTEN}
    for file in files.values():
        file.chmod(0o600)

    first, second = install("--all"), install("--all")

    assert (first.code, second.code) == (0, 0), first.err
    assert first.err.count("added the entry") == second.err.count("already has the entry") == len(WRITTEN)
    for client, file in files.items():
        assert list(servers(client, file)) == ["other", "anvyl"]
        entry = launch_of(client, servers(client, file)["anvyl"])
        assert Path(entry.command).is_absolute() and Path(entry.command).samefile(ANVYL_MCP)
        assert (entry.args, entry.env["ANVYL_HOME"]) == (["gateway"], os.environ["ANVYL_HOME"])
        [backup] = file.parent.glob(f"{file.name}.*.bak")
        assert backup.read_text(encoding="utf-8") == others(client)
        assert file.stat().st_mode & 0o777 == 0o600

    removed = uninstall("--all")

    assert removed.code == 0 and removed.err.count("removed the entry") == len(WRITTEN)
    for client, file in files.items():
        assert file.read_text(encoding="utf-8") == others(client), "with every comment"


def test_one_assistant_is_named() -> None:
    settings_of("cursor", "{}")

    assert "restart Cursor" in install("cursor").err
    assert "Cursor already has this entry" in install("cursor").err
    assert "removed the entry" in uninstall("cursor").err
    assert "Cursor has no such entry" in uninstall("cursor").err


async def test_every_written_entry_starts_the_gateway(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back as each client does, and started by the official MCP client."""
    monkeypatch.chdir(desk)
    clients = [client for client in WRITTEN if CLIENTS[client].shape is not CLIENTS["cursor"].shape]
    started: list[tuple[str, bool]] = []

    async def start(client: str) -> None:
        entry = launch_of(client, servers(client, settings_of_installed[client])["anvyl"])
        parameters = StdioServerParameters(command=entry.command, args=entry.args, env=dict(entry.env))
        async with Client(parameters) as session:
            started.append((client, "list_hosts" in {tool.name for tool in (await session.list_tools()).tools}))

    settings_of_installed = {client: settings_of(client, "") for client in clients}
    assert install("--all", "--read-only").code == 0
    with anyio.fail_after(240):
        async with anyio.create_task_group() as group:
            for client in {CLIENTS[one].shape: one for one in clients}.values():
                group.start_soon(start, client)

    assert len(started) >= 7 and all(serves for _, serves in started), started


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
        ("zed", '{"theme": "x"'),
        ("vscode", "[]"),
        ("goose", "extensions: {other: {cmd: x}}\n"),
        ("goose", "a: 1\n---\nb: 1\n"),
        ("continue", "mcpServers:\n  other:\n    command: x\n"),
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
        ("opencode", "darwin", ".config/opencode/opencode.json"),
        ("goose", "darwin", ".config/goose/config.yaml"),
        ("goose", "win32", "AppData/Roaming/Block/goose/config/config.yaml"),
        ("cline", "linux", ".cline/data/settings/cline_mcp_settings.json"),
        ("jan", "linux", ".local/share/Jan/data/mcp_config.json"),
        ("jan", "darwin", "Library/Application Support/Jan/data/mcp_config.json"),
    ],
)
def test_the_path_of_the_settings_depends_on_the_system(client: str, system: str, where: str, desk: Path) -> None:
    assert config_file(CLIENTS[client], {}, system) == desk / where


def test_all_finds_each_installed_assistant_and_a_damaged_one_does_not_stop_the_others(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    (desk / ".cline").mkdir()
    goose, broken = settings_of("goose", "extensions: {}\n"), settings_of("cursor", "{broken")

    added, listed = install("--all", "--json"), install("--json").json["clients"]
    removed = uninstall("--all", "--json")

    assert (added.code, removed.code) == (3, 0)
    assert {one["client"]: one["written"] for one in added.json["clients"]} == {
        "cursor": False,
        "goose": True,
        "cline": True,
    }
    assert {one["client"] for one in listed if one["state"] == "set up"} == {"goose", "cline"}
    assert {one["client"]: one["removed"] for one in removed.json["clients"]} == {"goose": True, "cline": True}
    assert "anvyl" not in goose.read_text(encoding="utf-8") and broken.read_text(encoding="utf-8") == "{broken"
    assert uninstall("--all").code == 1, "none has it"


def test_newer_settings_of_opencode_are_followed() -> None:
    """Version 2 keeps servers in `mcp.servers`, and both versions read `opencode.jsonc`."""
    first = settings_of("opencode", "{}")
    file = first.rename(first.with_suffix(".jsonc"))
    file.write_text(
        '{\n  "mcp": {"servers": {"x": {"type": "local", "command": ["x"]}}}, // mine\n}\n', encoding="utf-8"
    )

    assert install("opencode").code == 0

    assert list(jsonc.parse(file.read_text(encoding="utf-8"))["mcp"]["servers"]) == ["x", "anvyl"]
    assert "// mine" in file.read_text(encoding="utf-8")


def test_settings_elsewhere_are_named_with_file(tmp_path: Path) -> None:
    file = tmp_path / "librechat.yaml"
    file.write_text("version: 1.2.1\n# mcpServers:\n#   x:\n", encoding="utf-8")

    done = install("librechat", "--file", str(file))

    assert done.code == 0 and "in a container" in done.err
    assert list(servers("librechat", file)) == ["anvyl"]
    assert uninstall("librechat", "--file", str(file)).code == 0
    assert file.read_text(encoding="utf-8").startswith("version: 1.2.1\n# mcpServers:\n#   x:\n")


COMMENTS = some.sampled_from(["", " ", "\n", "\n\t", " // } , \n", " /* , } */ ", '\n  // "anvyl": 1,\n  '])


@some.composite
def documents(draw: some.DrawFn, depth: int = 0) -> str:
    """An object in JSON with comments and trailing commas anywhere."""
    trailing: bool = draw(some.booleans())

    def space() -> str:
        return draw(COMMENTS)

    members = []
    for key in draw(some.lists(some.sampled_from(["a", "mcp", "anvyl", "z"]), max_size=4, unique=True)):
        deeper: bool = draw(some.booleans())
        nested = key == "mcp" or (depth < 2 and deeper)
        value = draw(documents(depth + 1)) if nested and depth < 2 else "{}" if nested else '[1, "// } \\" ",]'
        members.append(f'{space()}"{key}"{space()}:{space()}{value}{space()}')
    return f"{{{','.join(members)}{f',{space()}' if members and trailing else space()}}}"


@given(documents(), COMMENTS)
def test_any_json_with_comments_keeps_all_but_the_entry(text: str, around: str) -> None:
    before = jsonc.parse(around + text + around)

    after = jsonc.set_member(around + text + around, ["mcp", "anvyl"], {"command": "x"})
    removed = jsonc.remove_member(after, ["mcp", "anvyl"])

    before.setdefault("mcp", {})["anvyl"] = {"command": "x"}
    assert jsonc.parse(after) == before
    del before["mcp"]["anvyl"]
    assert jsonc.parse(removed) == before
    for comment in ("/* , } */", "// } ,") if '"anvyl"' not in text else ():
        assert removed.count(comment) == (around + text + around).count(comment)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "extensions:\n  a:\n    x: |\n      text\n      # text too\n\n# end\nb: 1\n",
        "extensions:  # mine\nq: 1\n",
        "extensions: {}\nq: 1\n",
        "extensions:\n    a: 1\n    # c\n    anvyl:\n        z: 1\n    b: 2\n",
        '---\n"extensions":\n  a: {x: [1, "#"]}\n',
        "extensions:\n- name: o\n  command: x\n- name: 'anvyl' # c\n  c: 1\n# t\n",
        "extensions:\n  - command: x\n    name: anvyl\n  # - name: u\n  - name: z\nq: 2\n",
    ],
)
def test_any_yaml_in_block_style_keeps_all_but_the_entry(text: str) -> None:
    entry = {"name": "anvyl", "args": ["a: b", "--x"], "env": {"N": "on", "e": ""}, "empty": {}, "on": True, "n": 300}
    as_list = "- " in text
    before = yaml.safe_load(text) or {}

    def parts(document: Any) -> tuple[Any, Any, Any]:
        """Our entry, the others, and the rest of the document."""
        found = document.get("extensions") or {}
        named = {one.get("name"): one for one in found} if isinstance(found, list) else dict(found)
        own = named.pop("anvyl", None)
        return own, named, {key: one for key, one in document.items() if key != "extensions"}

    after = yaml_blocks.set_entry(text, "extensions", "anvyl", entry, as_list=as_list)
    removed = yaml_blocks.remove_entry(after, "extensions", "anvyl")

    assert parts(yaml.safe_load(after)) == (entry, *parts(before)[1:])
    assert parts(yaml.safe_load(removed) or {}) == (None, *parts(before)[1:])
    for comment in ("# text too", "# end", "# mine", "# t", "# - name: u"):
        assert removed.count(comment) == text.count(comment)


@pytest.mark.parametrize("text", ["{a: 1}\n", "- a\n", "a: 1\n---\nb: 1\n", "x: &y\n  a: 1\n", "x: 1\nx: 2\n"])
def test_yaml_in_another_style_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedConfig):
        yaml_blocks.set_entry(text, "x", "anvyl", {"a": 1}, as_list=False)
