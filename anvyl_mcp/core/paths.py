"""Configuration and state directories of an installation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SYSTEM_HOME = Path("/var/lib/anvyl")
"""Home of a server that runs as a system service."""
SERVICE_RECORD = "service.json"
"""In the home of a server that runs as a service: how it was installed."""


def config_and_state_dirs(env: Mapping[str, str]) -> tuple[Path, Path]:
    """Return the configuration and the state directory; `ANVYL_HOME` sets both.

    Commands of root without `ANVYL_HOME` are about the system service, if there is one.
    """
    if home := env.get("ANVYL_HOME"):
        folder = Path(home).expanduser().absolute()
        return folder, folder
    if os.geteuid() == 0 and (SYSTEM_HOME / SERVICE_RECORD).exists():
        return SYSTEM_HOME, SYSTEM_HOME
    return user_dirs()


def user_dirs() -> tuple[Path, Path]:
    """Return the configuration and the state directory of a user."""
    # Takes 20 ms to import, which shell completion avoids when `ANVYL_HOME` is set.
    from platformdirs import user_config_path, user_state_path

    return user_config_path("anvyl"), user_state_path("anvyl")
