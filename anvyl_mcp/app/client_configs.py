"""Config files of MCP clients (assistants): where each one is, and the entry that starts our gateway."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from anvyl_mcp.core.errors import InvalidInput, did_you_mean

PROGRAM = "anvyl-mcp"
ENTRY = "anvyl"
PASSED_VARIABLES = (
    "ANVYL_HOME", "ANVYL_NAME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
)  # fmt: skip
"""Environment variables to copy into the entry, because a desktop program does not inherit those of the shell."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Command line and environment that start the gateway."""

    command: str
    args: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """Variables that were omitted because they contain a password."""


EntryFormat = Callable[[Launch], dict[str, Any]]


def plain_entry(launch: Launch) -> dict[str, Any]:
    """The entry format of most clients."""
    return {"command": launch.command, "args": launch.args, **({"env": dict(launch.env)} if launch.env else {})}


def _stdio_entry(launch: Launch) -> dict[str, Any]:
    return {"type": "stdio", **plain_entry(launch)}


def _zed_entry(launch: Launch) -> dict[str, Any]:
    return {"source": "custom", **plain_entry(launch)}


def _opencode_entry(launch: Launch) -> dict[str, Any]:
    environment = {"environment": dict(launch.env)} if launch.env else {}
    return {"type": "local", "command": [launch.command, *launch.args], **environment, "enabled": True}


def _goose_entry(launch: Launch) -> dict[str, Any]:
    command = {"cmd": launch.command, "args": launch.args, "envs": dict(launch.env)}
    words = {"name": ENTRY, "description": "Docker hosts and their containers"}
    return {**words, "type": "stdio", **command, "enabled": True, "timeout": 300}


def _cline_entry(launch: Launch) -> dict[str, Any]:
    return {**plain_entry(launch), "disabled": False}


def _continue_entry(launch: Launch) -> dict[str, Any]:
    return {"name": ENTRY, **_stdio_entry(launch)}


def _jan_entry(launch: Launch) -> dict[str, Any]:
    # Jan's own entries always have `env`.
    return {"command": launch.command, "args": launch.args, "env": dict(launch.env), "active": True}


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """An MCP client and its config file.

    `file`: path, where `{home}`, `{config}` and `{data}` are folders of the system, `{here}` is the current one;
    `other_systems`: paths that differ by system; `sign`: the folder that exists if the client is installed (default:
    the folder of the file; `-`: only the file counts). `form`: file format; `json` may have comments, a `yaml-list` has
    entries with a `name`; for `shown`, we only print the entry and the user adds it. `key_within`: a key inside `key`
    that newer versions use; entries go there if the file has it.
    """

    title: str
    file: str
    key: str = "mcpServers"
    shape: EntryFormat = plain_entry
    form: Literal["json", "toml", "yaml", "yaml-list", "shown"] = "json"
    other_systems: Mapping[str, str] = field(default_factory=dict)
    sign: str = ""
    key_within: str = ""
    note: str = ""


ZED_FILES = {"darwin": "{home}/.config/zed/settings.json", "win32": "{config}/Zed/settings.json"}
OPENCODE_FILES = dict.fromkeys(("darwin", "win32"), "{home}/.config/opencode/opencode.json")
GOOSE_FILES = {"darwin": "{home}/.config/goose/config.yaml", "win32": "{config}/Block/goose/config/config.yaml"}
JAN_FILES = dict.fromkeys(("darwin", "win32"), "{config}/Jan/data/mcp_config.json")
CLINE_FILE = "{home}/.cline/data/settings/cline_mcp_settings.json"
IN_A_CONTAINER = "LibreChat in a container cannot start programs of this machine"
CLIENTS: Mapping[str, ClientConfig] = {
    "claude-desktop": ClientConfig("Claude Desktop", "{config}/Claude/claude_desktop_config.json"),
    "claude-code": ClientConfig("Claude Code", "{home}/.claude.json", shape=_stdio_entry),
    "cursor": ClientConfig("Cursor", "{home}/.cursor/mcp.json"),
    "vscode": ClientConfig("VS Code", "{config}/Code/User/mcp.json", "servers", _stdio_entry),
    "lmstudio": ClientConfig("LM Studio", "{home}/.lmstudio/mcp.json"),
    "windsurf": ClientConfig("Windsurf", "{home}/.codeium/windsurf/mcp_config.json"),
    "gemini": ClientConfig("Gemini CLI", "{home}/.gemini/settings.json"),
    "zed": ClientConfig("Zed", "{config}/zed/settings.json", "context_servers", _zed_entry, other_systems=ZED_FILES),
    "codex": ClientConfig("Codex", "{home}/.codex/config.toml", "mcp_servers", form="toml"),
    "opencode": ClientConfig(
        "opencode", "{config}/opencode/opencode.json", "mcp", _opencode_entry, "json", OPENCODE_FILES,
        key_within="servers",
    ),
    "goose": ClientConfig("Goose", "{config}/goose/config.yaml", "extensions", _goose_entry, "yaml", GOOSE_FILES),
    "cline": ClientConfig("Cline", CLINE_FILE, shape=_cline_entry, sign="{home}/.cline"),
    "continue": ClientConfig("Continue", "{home}/.continue/config.yaml", shape=_continue_entry, form="yaml-list"),
    "jan": ClientConfig("Jan", "{data}/Jan/data/mcp_config.json", shape=_jan_entry, other_systems=JAN_FILES),
    "librechat": ClientConfig(
        "LibreChat", "{here}/librechat.yaml", shape=_stdio_entry, form="yaml", sign="-", note=IN_A_CONTAINER
    ),
    "json": ClientConfig("any other assistant", "", form="shown"),
}  # fmt: skip


def find_client(name: str) -> ClientConfig:
    """Return the client with a name.

    Raises:
        InvalidInput: the name is unknown.
    """
    if name not in CLIENTS:
        parts = {part: client for client in CLIENTS for part in client.split("-")}
        [alike] = get_close_matches(name.lower(), parts, n=1, cutoff=0.7) or [name]
        known = did_you_mean(alike, CLIENTS)
        raise InvalidInput(
            f"unknown assistant `{name}`",
            hint=f"{known}{'' if known.endswith('?') else ';'} `json` prints an entry for any other",
        )
    return CLIENTS[name]


def gateway_launch(flags: Sequence[str], environ: Mapping[str, str], program: str = "") -> Launch:
    """Return how to start the gateway of this installation. `program` is the path that this process was started by."""
    called = Path(program)
    scripts = Path(sysconfig.get_path("scripts")) / PROGRAM
    # Prefer the symlink of pipx or uv: it stays when the folder that it points to is replaced.
    command = called.absolute() if called.stem == PROGRAM and called.is_file() else scripts
    env = {name: environ[name] for name in PASSED_VARIABLES if environ.get(name)}
    secret = tuple(name for name, value in env.items() if urlsplit(value).password)
    if "ANVYL_HOME" in env:
        env["ANVYL_HOME"] = str(Path(env["ANVYL_HOME"]).expanduser().absolute())
    public = {name: value for name, value in env.items() if name not in secret}
    return Launch(str(command), ["gateway", *flags], public, secret)


def config_file(client: ClientConfig, environ: Mapping[str, str], system: str = sys.platform) -> Path | None:
    """Return the path of the config file; None if it is unknown."""
    file = client.other_systems.get(system, client.file)
    if not file:
        return None
    path = _expand(file, environ, system)
    # opencode reads both; a file with comments has the longer ending.
    commented = path.with_suffix(".jsonc")
    return commented if client.form == "json" and commented.exists() and not path.exists() else path


def is_installed(
    client: ClientConfig, file: Path, environ: Mapping[str, str] = os.environ, system: str = sys.platform
) -> bool:
    """Whether the client was ever started on this machine."""
    sign = file.parent if not client.sign else _expand(client.sign, environ, system)
    return file.exists() or (client.sign != "-" and sign != Path.home() and sign.is_dir())


def _expand(path: str, environ: Mapping[str, str], system: str) -> Path:
    home = Path.home()
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    if system == "darwin":
        config = home / "Library" / "Application Support"
    elif system == "win32":
        config = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    else:
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return Path(path.format(home=home, config=config, data=data, here=Path.cwd()))
