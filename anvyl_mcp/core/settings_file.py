"""Write to `config.toml`, leaving everything else in it unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anvyl_mcp.core.errors import AnvylError, ConfigInvalid
from anvyl_mcp.core.files import write_atomically


def write_setting(config_dir: Path, name: str, value: str | None, *, table: str = "") -> Path:
    """Set a setting, or an entry of a table, or remove it with `None`; atomic. Returns the file.

    Raises:
        ConfigInvalid: the file is not valid TOML.
        AnvylError: the file cannot be written.
    """
    # Imported here because commands that only read settings do not need it.
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    file = config_dir / "config.toml"
    try:
        document = tomlkit.parse(file.read_text(encoding="utf-8")) if file.exists() else tomlkit.document()
        entries: Any = document
        if table:
            entries = document.setdefault(table, tomlkit.table())
        if value is None:
            entries.pop(name, None)
        else:
            entries[name] = value
        write_atomically(file, tomlkit.dumps(document))
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{file} is not valid TOML: {error}", hint="fix the file or move it away") from error
    except OSError as error:
        raise AnvylError(f"{file} cannot be written: {error.strerror}", hint="check disk and permissions") from error
    return file
