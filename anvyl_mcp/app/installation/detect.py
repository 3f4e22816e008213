"""How this installation was made, and the commands that upgrade it."""

from __future__ import annotations

import json
import os
import shlex
import site
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

import anvyl_mcp
from anvyl_mcp.server.container_host import runs_in_container

PACKAGE = "anvyl-mcp"
OWN_BUILD = "clone"
"""Name of an image that the Dockerfile made from a clone."""
Content = TypeVar("Content")
Kind = Literal["container", "temporary", "git", "pipx", "uv tool", "distribution", "venv", "user", "system"]
DISTRIBUTIONS = {
    "/var/lib/dpkg/status": "apt-get install --only-upgrade",
    "/etc/alpine-release": "apk add --upgrade",
    "/etc/arch-release": "pacman -S",
    "/usr/bin/dnf": "dnf upgrade",
    "/usr/bin/zypper": "zypper update",
}
"""A file of the distribution → how its packages are upgraded."""


@dataclass(frozen=True, slots=True)
class Installation:
    """How Anvyl was installed. `words` completes "Anvyl"; `commands` upgrade it, one after the other."""

    kind: Kind
    place: Path
    words: str
    commands: tuple[tuple[str, ...], ...]
    automatic: bool = True
    """Whether we can run the commands ourselves."""

    @property
    def temporary(self) -> bool:
        """Whether the place is a cache."""
        return self.kind == "temporary"

    @property
    def lines(self) -> list[str]:
        """The commands, to be typed."""
        return [shlex.join(command) for command in self.commands]


def detect_installation(
    prefix: Path | None = None, package: Path | None = None, direct_url: Mapping[str, Any] | None = None, *,
    installer: str | None = None, in_container: bool | None = None, environ: Mapping[str, str] | None = None,
) -> Installation:  # fmt: skip
    """Find out how Anvyl was installed. Arguments replace what is found in this process, for tests."""
    prefix = prefix or Path(sys.prefix)
    package = package or Path(anvyl_mcp.__file__).parent
    environ = os.environ if environ is None else environ
    direct = _direct_url() if direct_url is None else direct_url
    installer = _installer() if installer is None else installer
    checkout = _checkout(direct, package)
    # In the order of what says most about how to upgrade: an image holds a virtual environment, too.
    if (runs_in_container(environ) if in_container is None else in_container) and environ.get("ANVYL_IMAGE"):
        return _container(prefix, environ["ANVYL_IMAGE"])
    if {"archive-v0", "environments-v2", ".cache"} & {*prefix.parts}:
        return Installation("temporary", prefix, f"runs from a cache, {prefix}", (("uvx", f"{PACKAGE}@latest"),), False)
    tool = _uv_tool(prefix, environ) or _pipx(prefix, environ)
    if tool is None and checkout is not None:
        update = _into_environment(prefix, checkout, installer)
        return Installation("git", checkout, f"runs from the git clone {checkout}", (_pull(checkout), *update))
    found = tool or _from_pip(prefix, package, direct, installer)
    source = _folder(direct)
    if source is not None and (source / ".git").exists():
        # As with `pipx install .`: that program installs from the folder again.
        found = replace(
            found, words=f"{found.words}, from the git clone {source}", commands=(_pull(source), *found.commands)
        )
    return found


def _container(prefix: Path, image: str) -> Installation:
    up = ("docker", "compose", "up", "--detach")
    if image == OWN_BUILD:
        words = "runs in a container of an image that was built from a clone"
        return Installation(
            "container", prefix, words, (("git", "pull", "--ff-only"), (*up, "--build")), automatic=False
        )
    words = f"runs in a container of the image {image}"
    return Installation("container", prefix, words, (("docker", "compose", "pull"), up), automatic=False)


def _pull(checkout: Path) -> tuple[str, ...]:
    return ("git", "-C", str(checkout), "pull", "--ff-only")


def _into_environment(prefix: Path, checkout: Path, installer: str) -> tuple[tuple[str, ...], ...]:
    """Return the command that installs what the pulled clone needs into the environment that runs it."""
    if prefix == checkout / ".venv":
        return ((str(checkout / "scripts" / "try"), "--install"),)
    return ((*_pip(prefix, installer), "--editable", str(checkout)),) if installer else ()


def _pip(prefix: Path, installer: str) -> tuple[str, ...]:
    python = str(prefix / "bin" / "python") if prefix != Path(sys.base_prefix) else sys.executable
    if installer == "uv":
        return ("uv", "pip", "install", "--python", python)
    # Who installed it there has done this before.
    managed = prefix == Path(sys.base_prefix) and (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").exists()
    return (python, "-m", "pip", "install", *(["--break-system-packages"] if managed else []))


def _uv_tool(prefix: Path, environ: Mapping[str, str]) -> Installation | None:
    if not (prefix / "uv-receipt.toml").is_file():
        return None
    return Installation("uv tool", prefix, f"was installed by uv, in {prefix}", (("uv", "tool", "upgrade", PACKAGE),))


def _pipx(prefix: Path, environ: Mapping[str, str]) -> Installation | None:
    if not (prefix / "pipx_metadata.json").is_file():
        return None
    shared = prefix.is_relative_to(environ.get("PIPX_GLOBAL_HOME") or "/opt/pipx")
    command = ("pipx", "upgrade", *(["--global"] if shared else []), PACKAGE)
    return Installation("pipx", prefix, f"was installed by pipx, in {prefix}", (command,))


def _from_pip(prefix: Path, package: Path, direct: Mapping[str, Any], installer: str) -> Installation:
    if "dist-packages" in package.parts and package.is_relative_to("/usr/lib"):
        line = next((line for file, line in DISTRIBUTIONS.items() if Path(file).exists()), "")
        command = (*line.split(), PACKAGE) if line else ("upgrade", PACKAGE)
        return Installation("distribution", package, "is a package of the distribution", (command,))
    folder = _folder(direct)
    requirement = f"{PACKAGE} @ git+{direct['url']}" if "vcs_info" in direct else str(folder or PACKAGE)
    if prefix != Path(sys.base_prefix):
        command = (*_pip(prefix, installer), "--upgrade", requirement)
        return Installation("venv", prefix, f"was installed into the virtual environment {prefix}", (command,))
    user = ["--user"] if package.is_relative_to(site.getuserbase()) else []
    command = (*_pip(prefix, installer), *user, "--upgrade", requirement)
    kind: Kind = "user" if user else "system"
    return Installation(kind, package.parent, f"was installed by {installer or 'pip'}, in {package.parent}", (command,))


def _folder(direct: Mapping[str, Any]) -> Path | None:
    """Return the folder that the package was installed from."""
    return Path(unquote(urlsplit(str(direct.get("url", ""))).path)) if "dir_info" in direct else None


def _checkout(direct: Mapping[str, Any], package: Path) -> Path | None:
    """Return the git clone that an editable installation runs from."""
    folder = _folder(direct) if (direct.get("dir_info") or {}).get("editable") else None
    place = folder or package.parent
    return place if (place / ".git").exists() else None


def _direct_url() -> dict[str, Any]:
    """Return `direct_url.json`: where the package came from, if not from an index."""
    return _read(lambda text: dict(json.loads(text)), "direct_url.json") or {}


def _installer() -> str:
    return _read(str.strip, "INSTALLER") or ""


def _read(parse: Callable[[str], Content], file: str) -> Content | None:
    try:
        content = metadata.distribution(PACKAGE).read_text(file)
        return parse(content) if content else None
    except (metadata.PackageNotFoundError, ValueError):
        return None
