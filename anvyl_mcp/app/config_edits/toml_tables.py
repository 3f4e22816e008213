"""Edit one table of a TOML file."""

from __future__ import annotations

from typing import Any

from anvyl_mcp.app.config_edits.edit_errors import UnsupportedConfig


def set_table(text: str, key: str, name: str, value: dict[str, Any]) -> str:
    """Set the table `[key.name]`.

    Raises:
        UnsupportedConfig: the file is not valid TOML, or `key` is not a table.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        tables = document.setdefault(key, tomlkit.table(is_super_table=True))
        if tables.get(name) == value:
            return text
        tables[name] = value
    except (TOMLKitError, AttributeError, TypeError) as error:
        raise UnsupportedConfig(f"it is not valid TOML, or `{key}` is not a table") from error
    return tomlkit.dumps(document)


def remove_table(text: str, key: str, name: str) -> str:
    """Remove the table `[key.name]`, if it is there.

    Raises:
        UnsupportedConfig: the file is not valid TOML.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        tables: Any = document.get(key, {})
        if name not in tables:
            return text
        del tables[name]
        if not tables:
            del document[key]
    except (TOMLKitError, AttributeError, TypeError) as error:
        raise UnsupportedConfig("it is not valid TOML") from error
    rest = tomlkit.dumps(document).rstrip("\n")
    return f"{rest}\n" if rest else ""
