"""The command that adds an optional extra to this installation."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

PACKAGE = "anvyl-mcp"
OF_EXTRA = re.compile(r"(?P<package>[\w.-]+).*;.*\bextra == ['\"](?P<extra>[\w-]+)['\"]")


def install_command(extra: str) -> str:
    """Return the command that installs an extra, as this installation was made: `pip install 'anvyl-mcp[notify]'`."""
    prefix, requirement = Path(sys.prefix), f"{PACKAGE}[{extra}]"
    if (prefix / "pipx_metadata.json").is_file():
        shared = prefix.is_relative_to(os.environ.get("PIPX_GLOBAL_HOME") or "/opt/pipx")
        words = [*(["sudo"] if shared else []), "pipx", "install", *(["--global"] if shared else []), "--force"]
        return shlex.join([*words, _whole_requirement(extra)])
    if (prefix / "uv-receipt.toml").is_file():
        return shlex.join(["uv", "tool", "install", _whole_requirement(extra)])
    if prefix == Path(sys.base_prefix):
        return shlex.join(["pip", "install", requirement])
    if importlib.util.find_spec("pip") is None:
        return shlex.join(["uv", "pip", "install", "--python", sys.executable, requirement])
    return shlex.join([sys.executable, "-m", "pip", "install", requirement])


def _whole_requirement(extra: str) -> str:
    """The requirement of the whole installation: pipx and uv make it anew, without what is not named."""
    extras: dict[str, list[str]] = {}
    try:
        ours = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return f"{PACKAGE}[{extra}]"
    for line in ours.requires or []:
        if found := OF_EXTRA.match(line):
            extras.setdefault(found["extra"], []).append(found["package"])
    present = {name for name, packages in extras.items() if all(map(_is_installed, packages))}
    source = json.loads(ours.read_text("direct_url.json") or "{}")
    place = unquote(urlsplit(source["url"]).path) if "dir_info" in source else PACKAGE
    origin = f" @ git+{source['url']}" if "vcs_info" in source else ""
    return f"{place}[{','.join(sorted({*present, extra}))}]{origin}"


def _is_installed(package: str) -> bool:
    return any(metadata.distributions(name=package))
