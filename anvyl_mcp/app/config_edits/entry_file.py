"""Add our entry to the config file of an MCP client, or remove it. A changed file leaves a backup next to it."""

from __future__ import annotations

import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from anvyl_mcp.app.client_configs import ENTRY, ClientConfig, Launch, is_installed
from anvyl_mcp.app.config_edits import jsonc, toml_tables, yaml_blocks
from anvyl_mcp.app.config_edits.edit_errors import UnsupportedConfig
from anvyl_mcp.core.errors import AnvylError, ConfigInvalid, NotFound
from anvyl_mcp.core.files import PRIVATE_MODE, write_atomically


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """What happened to a config file. `changed` is false if it already was as wanted."""

    file: Path
    changed: bool
    backup: Path | None = None


def entry_text(client: ClientConfig, start: Launch) -> str:
    """Return a config file that has only our entry."""
    return _with_entry(client, "", start)


def has_entry(client: ClientConfig, file: Path) -> bool:
    """Whether the config file already has our entry."""
    with suppress(OSError, UnsupportedConfig):
        text = _read(file)
        return _without_entry(client, text) != text
    return False


def install_entry(name: str, client: ClientConfig, file: Path, start: Launch, *, dry_run: bool = False) -> ConfigChange:
    """Add our entry to a config file.

    Raises:
        NotFound: the client was never started on this machine.
        ConfigInvalid: the file has a format that we cannot change safely.
        AnvylError: the file cannot be written.
    """
    by_hand = f"add the entry yourself: anvyl-mcp install {name} --print"
    if not is_installed(client, file):
        raise NotFound(
            f"{client.title} has no settings file at {file}",
            hint=f"start it once, name the file with --file, or {by_hand}",
        )
    try:
        # Write through a symlink, which people use to keep their settings under version control.
        file = file.resolve()
        before = _read(file) if file.exists() else ""
        return _replace(file, before, _with_entry(client, before, start), dry_run=dry_run)
    except UnsupportedConfig as error:
        raise ConfigInvalid(f"{file} was not changed: {error}", hint=by_hand) from error
    except OSError as error:
        raise AnvylError(f"{file} cannot be written: {error.strerror}", hint=by_hand) from error


def uninstall_entry(client: ClientConfig, file: Path, *, dry_run: bool = False) -> ConfigChange:
    """Remove our entry from a config file.

    Raises:
        ConfigInvalid: the file has a format that we cannot change safely.
        AnvylError: the file cannot be written.
    """
    by_hand = f"remove the entry `{ENTRY}` from it yourself"
    try:
        file = file.resolve()
        before = _read(file) if file.exists() else ""
        return _replace(file, before, _without_entry(client, before), dry_run=dry_run)
    except UnsupportedConfig as error:
        raise ConfigInvalid(f"{file} was not changed: {error}", hint=by_hand) from error
    except OSError as error:
        raise AnvylError(f"{file} cannot be written: {error.strerror}", hint=by_hand) from error


def _with_entry(client: ClientConfig, text: str, start: Launch) -> str:
    entry = client.shape(start)
    if client.form == "toml":
        return toml_tables.set_table(text, client.key, ENTRY, entry)
    if client.form in ("yaml", "yaml-list"):
        return yaml_blocks.set_entry(text, client.key, ENTRY, entry, as_list=client.form == "yaml-list")
    return jsonc.set_member(text, [*_json_keys(client, text), ENTRY], entry)


def _without_entry(client: ClientConfig, text: str) -> str:
    if client.form == "toml":
        return toml_tables.remove_table(text, client.key, ENTRY)
    if client.form in ("yaml", "yaml-list"):
        return yaml_blocks.remove_entry(text, client.key, ENTRY)
    return jsonc.remove_member(text, [*_json_keys(client, text), ENTRY])


def _json_keys(client: ClientConfig, text: str) -> list[str]:
    """Return the keys of the object that has the entries."""
    servers = jsonc.parse(text).get(client.key)
    within = client.key_within
    if within and isinstance(servers, dict) and isinstance(servers.get(within), dict) and "type" not in servers[within]:
        return [client.key, within]
    return [client.key]


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnsupportedConfig("it is not UTF-8 text") from error


def _replace(file: Path, before: str, after: str, *, dry_run: bool) -> ConfigChange:
    if after == before or dry_run:
        return ConfigChange(file, changed=after != before)
    backup = None
    if file.exists():
        backup = file.with_name(f"{file.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.bak")
        shutil.copy2(file, backup)
    write_atomically(file, after, mode=stat.S_IMODE(backup.stat().st_mode) if backup else PRIVATE_MODE)
    return ConfigChange(file, changed=True, backup=backup)
