"""Whether this server runs in a container, and what it therefore cannot see of the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from anvyl_mcp.core.errors import Conflict

MARKS = ("/.dockerenv", "/run/.containerenv")
"""Files that Docker and Podman put into every container. Machines made from an image may have one, too."""
LAYERED = ("overlay", "fuse-overlayfs")
"""Types of the root file system of most containers."""
VARIABLE = "ANVYL_IMAGE"
"""Set in our own image: the name under which it is published, or `clone`."""
MACHINE_PIDS = "pid:[4026531836]"
"""PROC_PID_INIT_INO: the initial PID namespace, which sees every process of the machine."""
INSTALL = "install Anvyl on the machine itself to have it: docs/service.md"


def runs_in_container(environ: Mapping[str, str] | None = None) -> bool:
    """Whether this process runs in a container of Docker, Podman or Kubernetes."""
    env = os.environ if environ is None else environ
    if env.get(VARIABLE) or env.get("KUBERNETES_SERVICE_HOST"):
        return True
    return any(Path(mark).exists() for mark in MARKS) and (not _sees_processes() or _root_type() in LAYERED)


def describe_limits() -> str:
    """Say what the server does not see or do because it runs in a container; empty if it does not run in one."""
    if not runs_in_container():
        return ""
    processes = "" if _sees_processes() else "processes and "
    return (
        "the server runs in a container: containers, images, networks, volumes, cpu and memory are those of the "
        f"machine; it does not see the machine's {processes}disks, and runs no commands there"
    )


def check_sees_processes() -> None:
    """Refuse to list processes that would be those of the container.

    Raises:
        Conflict: the server runs in a container.
    """
    if runs_in_container() and not _sees_processes():
        raise Conflict(
            "the server runs in a container and does not see the processes of the machine",
            hint=f"get_container_stats shows those of containers; {INSTALL}",
        )


def check_runs_commands() -> None:
    """Refuse to run a command that would run in the container.

    Raises:
        Conflict: the server runs in a container.
    """
    if runs_in_container():
        raise Conflict(
            "the server runs in a container and cannot run commands on the machine",
            hint=f"exec_in_container runs them in a container; {INSTALL}",
        )


def _root_type() -> str:
    """Return the type of the root file system; empty if the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            fields = line.split()
            if fields[4] == "/":
                return fields[fields.index("-") + 1]
    return ""


def _sees_processes() -> bool:
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink()) == MACHINE_PIDS
    return True
