"""Writing one setting to `config.toml`, with everything else in it left as it is."""

from __future__ import annotations

import os
from pathlib import Path

from anvyl_mcp.errors import AnvylError, ConfigInvalid
from anvyl_mcp.files import private_folder


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
    beside = file.with_suffix(f".{os.getpid()}")
    try:
        private_folder(config_dir)
        document = tomlkit.parse(file.read_text(encoding="utf-8")) if file.exists() else tomlkit.document()
        document[name] = value
        # It may hold a key.
        beside.touch(mode=0o600)
        beside.write_text(tomlkit.dumps(document), encoding="utf-8")
        beside.replace(file)
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{file} is not valid TOML: {error}", hint="mend the file or move it away") from error
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise AnvylError(f"{file} cannot be written: {error.strerror}", hint="check the disk and its owner") from error
    return file
