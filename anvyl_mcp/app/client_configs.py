"""Config files of MCP clients (assistants): where each one is, and the entry that starts our gateway."""

from __future__ import annotations

import json
import re
import shutil
import stat
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from anvyl_mcp.core.errors import AnvylError, ConfigInvalid, InvalidInput, NotFound, did_you_mean
from anvyl_mcp.core.files import PRIVATE_MODE, write_atomically

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


def _goose_entry(launch: Launch) -> dict[str, Any]:
    command = {"cmd": launch.command, "args": launch.args, "envs": dict(launch.env)}
    return {"name": ENTRY, "type": "stdio", **command, "enabled": True, "timeout": 300}


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """An MCP client and its config file.

    `file`: path, where `{config}` is the config folder of the system; `other_systems`: paths that differ by system.
    `form`: file format; for `shown`, we only print the entry and the user adds it.
    """

    title: str
    file: str
    key: str = "mcpServers"
    shape: EntryFormat = plain_entry
    form: Literal["json", "toml", "shown"] = "json"
    other_systems: Mapping[str, str] = field(default_factory=dict)


ZED_FILES = {"darwin": "{home}/.config/zed/settings.json", "win32": "{config}/Zed/settings.json"}
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
    "goose": ClientConfig("Goose", "{home}/.config/goose/config.yaml", "extensions", _goose_entry, "shown"),
    "json": ClientConfig("any other assistant", "", form="shown"),
}


@dataclass(frozen=True, slots=True)
class InstallResult:
    """Result of an installation. `changed` is false if the entry was already there."""

    file: Path
    changed: bool
    backup: Path | None = None


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
    home = Path.home()
    if system == "darwin":
        config = home / "Library" / "Application Support"
    elif system == "win32":
        config = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    else:
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    file = client.other_systems.get(system, client.file)
    return Path(file.format(home=home, config=config)) if file else None


def entry_text(client: ClientConfig, start: Launch) -> str:
    """Return a config file that has only our entry."""
    return _add_entry(client, "", start)


def is_installed(file: Path) -> bool:
    """Whether the client of this config file was ever started on this machine."""
    return file.exists() or (file.parent != Path.home() and file.parent.is_dir())


def has_entry(client: ClientConfig, file: Path) -> bool:
    """Whether the config file already has our entry."""
    with suppress(OSError, ValueError):
        return f'"{ENTRY}"' in file.read_text("utf-8") or f"{client.key}.{ENTRY}]" in file.read_text("utf-8")
    return False


def install_entry(name: str, file: Path, start: Launch, *, dry_run: bool = False) -> InstallResult:
    """Add our entry to the config file of a client, and keep a backup of the file next to it.

    Raises:
        NotFound: the client was never started on this machine.
        ConfigInvalid: the file has a format that we cannot change safely.
        AnvylError: the file cannot be written.
    """
    client, by_hand = find_client(name), f"add the entry yourself: anvyl-mcp install {name} --print"
    if not is_installed(file):
        raise NotFound(f"{client.title} has no settings file at {file}", hint=f"start it once, or {by_hand}")
    try:
        # Write through a symlink, which people use to keep their settings under version control.
        file = file.resolve()
        before = file.read_text(encoding="utf-8-sig") if file.exists() else ""
        after = _add_entry(client, before, start)
        if after == before:
            return InstallResult(file, changed=False)
        return InstallResult(file, changed=True) if dry_run else _replace(file, after)
    except _UnsupportedConfig as error:
        raise ConfigInvalid(f"{file} was not changed: {error}", hint=by_hand) from error
    except OSError as error:
        raise AnvylError(f"{file} cannot be written: {error.strerror}", hint=by_hand) from error


class _UnsupportedConfig(ValueError):
    """A config file that we cannot change without losing content."""


def _add_entry(client: ClientConfig, before: str, start: Launch) -> str:
    add = _add_to_toml if client.form == "toml" else _add_to_json
    return add(before, client.key, client.shape(start))


def _add_to_json(before: str, key: str, entry: dict[str, Any]) -> str:
    try:
        document = json.loads(before) if before.strip() else {}
    except (ValueError, RecursionError) as error:
        raise _UnsupportedConfig("it has comments, or is not JSON") from error
    servers = document.setdefault(key, {}) if isinstance(document, dict) else None
    if not isinstance(servers, dict):
        raise _UnsupportedConfig(f"its `{key}` is not an object")
    if servers.get(ENTRY) == entry:
        return before
    servers[ENTRY] = entry
    indent = re.search(r"^[{]\s*\n([ \t]+)", before)
    return json.dumps(document, indent=indent[1] if indent else 2, ensure_ascii=False) + "\n"


def _add_to_toml(before: str, key: str, entry: dict[str, Any]) -> str:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(before)
        servers = document.setdefault(key, tomlkit.table(is_super_table=True))
        if servers.get(ENTRY) == entry:
            return before
        servers[ENTRY] = entry
    except (TOMLKitError, AttributeError, TypeError) as error:
        raise _UnsupportedConfig("it is not valid TOML, or `mcp_servers` is not a table") from error
    return tomlkit.dumps(document)


def _replace(file: Path, content: str) -> InstallResult:
    backup = None
    if file.exists():
        backup = file.with_name(f"{file.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.bak")
        shutil.copy2(file, backup)
    write_atomically(file, content, mode=stat.S_IMODE(backup.stat().st_mode) if backup else PRIVATE_MODE)
    return InstallResult(file, changed=True, backup=backup)
