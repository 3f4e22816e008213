"""Configuration and state directories of an installation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def config_and_state_dirs(env: Mapping[str, str]) -> tuple[Path, Path]:
    """Return the configuration and the state directory; `ANVYL_HOME` sets both."""
    if home := env.get("ANVYL_HOME"):
        folder = Path(home).expanduser().absolute()
        return folder, folder
    # Takes 20 ms to import, which shell completion avoids when `ANVYL_HOME` is set.
    from platformdirs import user_config_path, user_state_path

    return user_config_path("anvyl"), user_state_path("anvyl")
