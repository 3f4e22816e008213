"""Where an installation keeps what it knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def config_and_state_dirs(env: Mapping[str, str]) -> tuple[Path, Path]:
    """The folders of configuration and of state; `ANVYL_HOME` is both."""
    if home := env.get("ANVYL_HOME"):
        folder = Path(home).expanduser().absolute()
        return folder, folder
    # 20 ms, which a key press that wants a completion need not pay where it is told the folder.
    from platformdirs import user_config_path, user_state_path

    return user_config_path("anvyl"), user_state_path("anvyl")
