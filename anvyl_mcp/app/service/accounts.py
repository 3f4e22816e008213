"""The account of a system service: its user, and the group that may use the engine's socket."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from anvyl_mcp.app.service import programs
from anvyl_mcp.core.errors import AnvylError

NOLOGIN = "/usr/sbin/nologin"
ENGINE_SOCKET = "/var/run/docker.sock"


def ensure_account(name: str, home: Path) -> bool:
    """Create the user and its group unless they exist; returns whether it did.

    Raises:
        AnvylError: it cannot be created.
    """
    with suppress(KeyError):
        pwd.getpwnam(name)
        return False
    if shutil.which("useradd"):
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(home)]
        programs.run_or_fail([*command, "--shell", NOLOGIN, "--comment", "Anvyl MCP server", name])
    else:
        # Busybox, on Alpine.
        with suppress(AnvylError):
            programs.run_or_fail(["addgroup", "-S", name])
        programs.run_or_fail(["adduser", "-S", "-D", "-H", "-h", str(home), "-s", "/sbin/nologin", "-G", name, name])
    return True


def engine_socket(docker_host: str) -> Path | None:
    """Return the engine's socket; None if it is reached in another way."""
    parts = urlsplit(docker_host or f"unix://{ENGINE_SOCKET}")
    return Path(parts.path) if parts.scheme == "unix" else None


def join_engine_group(name: str, socket: Path | None) -> str:
    """Let the user use the engine's socket, and return a note if that is not possible.

    Raises:
        AnvylError: the group cannot be changed.
    """
    group = _socket_group(socket)
    if group is None:
        return "there is no group `docker` yet; when Docker is installed, repeat: anvyl-mcp service install --system"
    if group.gr_gid == 0:
        return f"{socket} belongs to the group root, so `{name}` may not use it; install Docker's group `docker`"
    if name not in group.gr_mem:
        if shutil.which("usermod"):
            programs.run_or_fail(["usermod", "--append", "--groups", group.gr_name, name])
        else:
            programs.run_or_fail(["addgroup", name, group.gr_name])
    return ""


def _socket_group(socket: Path | None) -> grp.struct_group | None:
    """Return the group of the socket; without a socket, `docker`."""
    if socket is not None:
        with suppress(OSError, KeyError):
            found = socket.stat()
            if stat.S_ISSOCK(found.st_mode) and found.st_mode & stat.S_IWGRP:
                return grp.getgrgid(found.st_gid)
    with suppress(KeyError):
        return grp.getgrnam("docker")
    return None


def give_to(name: str, folder: Path) -> None:
    """Give a folder and all that is in it to the user.

    Raises:
        AnvylError: the owner cannot be changed.
    """
    owner = pwd.getpwnam(name)
    try:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        folder.chmod(0o700)
        for place, folders, files in os.walk(folder):
            for entry in (*folders, *files):
                os.chown(Path(place) / entry, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    except OSError as error:
        raise AnvylError(f"{folder} cannot be given to `{name}`: {error.strerror}", hint="check the disk") from error
