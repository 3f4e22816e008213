"""Writing one setting to `config.toml`, with everything else in it left as it is."""

from __future__ import annotations

from pathlib import Path

from anvyl_mcp.core.errors import AnvylError, ConfigInvalid
from anvyl_mcp.core.files import write_atomically


def write_setting(config_dir: Path, name: str, value: str) -> Path:
    """Set one setting, at once or not at all; the file.

    Raises:
        ConfigInvalid: the file is not valid.
        AnvylError: it cannot be written.
    """
    # Reading commands never pay for the library.
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    file = config_dir / "config.toml"
    try:
        document = tomlkit.parse(file.read_text(encoding="utf-8")) if file.exists() else tomlkit.document()
        document[name] = value
        write_atomically(file, tomlkit.dumps(document))
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{file} is not valid TOML: {error}", hint="mend the file or move it away") from error
    except OSError as error:
        raise AnvylError(f"{file} cannot be written: {error.strerror}", hint="check the disk and its owner") from error
    return file
