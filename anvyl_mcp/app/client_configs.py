"""Assistants, where each keeps its MCP servers, and our entry there: the gateway by its full path, and no secret."""

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
TOLD = (
    "ANVYL_HOME", "ANVYL_NAME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
)  # fmt: skip
"""Of the environment, what the gateway must know: a program of the desktop has none of the shell's."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How the gateway is started."""

    command: str
    args: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """Variables that hold a password, which must not stand in such a file."""


Shape = Callable[[Launch], dict[str, Any]]


def plain(launch: Launch) -> dict[str, Any]:
    """An entry as most assistants have it."""
    return {"command": launch.command, "args": launch.args, **({"env": dict(launch.env)} if launch.env else {})}


def _stdio(launch: Launch) -> dict[str, Any]:
    return {"type": "stdio", **plain(launch)}


def _zed(launch: Launch) -> dict[str, Any]:
    return {"source": "custom", **plain(launch)}


def _goose(launch: Launch) -> dict[str, Any]:
    words = {"cmd": launch.command, "args": launch.args, "envs": dict(launch.env)}
    return {"name": ENTRY, "type": "stdio", **words, "enabled": True, "timeout": 300}


@dataclass(frozen=True, slots=True)
class Assistant:
    """A program that starts MCP servers by itself.

    `file`: `{config}` is the folder that the system has for settings; `elsewhere`: the file on a system that differs.
    `form`: how it is written; what is only shown a person puts there.
    """

    title: str
    file: str
    key: str = "mcpServers"
    shape: Shape = plain
    form: Literal["json", "toml", "shown"] = "json"
    elsewhere: Mapping[str, str] = field(default_factory=dict)


ZED = {"darwin": "{home}/.config/zed/settings.json", "win32": "{config}/Zed/settings.json"}
ASSISTANTS: Mapping[str, Assistant] = {
    "claude-desktop": Assistant("Claude Desktop", "{config}/Claude/claude_desktop_config.json"),
    "claude-code": Assistant("Claude Code", "{home}/.claude.json", shape=_stdio),
    "cursor": Assistant("Cursor", "{home}/.cursor/mcp.json"),
    "vscode": Assistant("VS Code", "{config}/Code/User/mcp.json", "servers", _stdio),
    "lmstudio": Assistant("LM Studio", "{home}/.lmstudio/mcp.json"),
    "windsurf": Assistant("Windsurf", "{home}/.codeium/windsurf/mcp_config.json"),
    "gemini": Assistant("Gemini CLI", "{home}/.gemini/settings.json"),
    "zed": Assistant("Zed", "{config}/zed/settings.json", "context_servers", _zed, elsewhere=ZED),
    "codex": Assistant("Codex", "{home}/.codex/config.toml", "mcp_servers", form="toml"),
    "goose": Assistant("Goose", "{home}/.config/goose/config.yaml", "extensions", _goose, "shown"),
    "json": Assistant("any other assistant", "", form="shown"),
}


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a settings file: nothing, where it held the entry already; `backup` is how it was before."""

    file: Path
    changed: bool
    backup: Path | None = None


def named(client: str) -> Assistant:
    """The assistant that a person named.

    Raises:
        InvalidInput: it is none that is known.
    """
    if client not in ASSISTANTS:
        parts = {part: name for name in ASSISTANTS for part in name.split("-")}
        [alike] = get_close_matches(client.lower(), parts, n=1, cutoff=0.7) or [client]
        known = did_you_mean(alike, ASSISTANTS)
        raise InvalidInput(
            f"there is no assistant `{client}`",
            hint=f"{known}{'' if known.endswith('?') else ';'} `json` prints an entry for any other",
        )
    return ASSISTANTS[client]


def launch(flags: Sequence[str], environ: Mapping[str, str], program: str = "") -> Launch:
    """The gateway of this installation. `program`: how it was called, which is best when it is a path."""
    called = Path(program)
    scripts = Path(sysconfig.get_path("scripts")) / PROGRAM
    # A link to it, as pipx and uv make them, outlives the folder that it leads to.
    command = called.absolute() if called.stem == PROGRAM and called.is_file() else scripts
    told = {name: environ[name] for name in TOLD if environ.get(name)}
    secret = tuple(name for name, value in told.items() if urlsplit(value).password)
    if "ANVYL_HOME" in told:
        told["ANVYL_HOME"] = str(Path(told["ANVYL_HOME"]).expanduser().absolute())
    env = {name: value for name, value in told.items() if name not in secret}
    return Launch(str(command), ["gateway", *flags], env, secret)


def place(assistant: Assistant, environ: Mapping[str, str], system: str = sys.platform) -> Path | None:
    """Its settings file; None for one that has none we know."""
    home = Path.home()
    if system == "darwin":
        config = home / "Library" / "Application Support"
    elif system == "win32":
        config = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    else:
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    file = assistant.elsewhere.get(system, assistant.file)
    return Path(file.format(home=home, config=config)) if file else None


def text_of(assistant: Assistant, start: Launch) -> str:
    """The entry as it stands in a settings file that holds nothing else."""
    return _added(assistant, "", start)


def is_here(file: Path) -> bool:
    """Whether the assistant with this settings file was ever started here."""
    return file.exists() or (file.parent != Path.home() and file.parent.is_dir())


def has_entry(assistant: Assistant, file: Path) -> bool:
    """Whether its settings name us already."""
    with suppress(OSError, ValueError):
        return f'"{ENTRY}"' in file.read_text("utf-8") or f"{assistant.key}.{ENTRY}]" in file.read_text("utf-8")
    return False


def install(client: str, file: Path, start: Launch, *, dry_run: bool = False) -> Written:
    """Write our entry into an assistant's settings; all else there stays, and the file before is kept beside it.

    Raises:
        NotFound: the assistant was never started here.
        ConfigInvalid: its settings cannot be changed without harm.
        AnvylError: they cannot be written.
    """
    assistant, by_hand = named(client), f"put it there yourself: anvyl-mcp install {client} --print"
    if not is_here(file):
        raise NotFound(f"{assistant.title} has no settings here: {file}", hint=f"start it once, or {by_hand}")
    try:
        # A link, as those who keep their settings under version control have it, stays one.
        file = file.resolve()
        before = file.read_text(encoding="utf-8-sig") if file.exists() else ""
        after = _added(assistant, before, start)
        if after == before:
            return Written(file, changed=False)
        return Written(file, changed=True) if dry_run else _replaced(file, after)
    except _Unreadable as error:
        raise ConfigInvalid(f"{file} is left as it is: {error}", hint=by_hand) from error
    except OSError as error:
        raise AnvylError(f"{file} cannot be written: {error.strerror}", hint=by_hand) from error


class _Unreadable(ValueError):
    """Settings that we could not write back as they were."""


def _added(assistant: Assistant, before: str, start: Launch) -> str:
    add = _added_to_toml if assistant.form == "toml" else _added_to_json
    return add(before, assistant.key, assistant.shape(start))


def _added_to_json(before: str, key: str, entry: dict[str, Any]) -> str:
    try:
        document = json.loads(before) if before.strip() else {}
    except (ValueError, RecursionError) as error:
        raise _Unreadable("it has comments, or is not JSON") from error
    servers = document.setdefault(key, {}) if isinstance(document, dict) else None
    if not isinstance(servers, dict):
        raise _Unreadable(f"its `{key}` is not what we know")
    if servers.get(ENTRY) == entry:
        return before
    servers[ENTRY] = entry
    indent = re.search(r"^[{]\s*\n([ \t]+)", before)
    return json.dumps(document, indent=indent[1] if indent else 2, ensure_ascii=False) + "\n"


def _added_to_toml(before: str, key: str, entry: dict[str, Any]) -> str:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(before)
        servers = document.setdefault(key, tomlkit.table(is_super_table=True))
        if servers.get(ENTRY) == entry:
            return before
        servers[ENTRY] = entry
    except (TOMLKitError, AttributeError, TypeError) as error:
        raise _Unreadable("it is not the TOML that we know") from error
    return tomlkit.dumps(document)


def _replaced(file: Path, content: str) -> Written:
    backup = None
    if file.exists():
        backup = file.with_name(f"{file.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.bak")
        shutil.copy2(file, backup)
    write_atomically(file, content, mode=stat.S_IMODE(backup.stat().st_mode) if backup else PRIVATE_MODE)
    return Written(file, changed=True, backup=backup)
