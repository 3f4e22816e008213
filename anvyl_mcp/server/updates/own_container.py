"""The container that this server runs in, if any: it cannot replace itself."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from anvyl_mcp.core.errors import Denied
from anvyl_mcp.server.updates.replacement import name_of

CONTAINER_FOLDER = re.compile(r"/containers/([0-9a-f]{64})/")
"""Where an engine keeps a container's hostname file, which it mounts into the container."""


@cache
def own_ids() -> frozenset[str]:
    """Ids that this container may have; empty outside of containers."""
    found = set[str]()
    with suppress(OSError):
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        lines = [line for line in mounts.splitlines() if " /etc/hostname " in line or " /etc/resolv.conf " in line]
        found = set(CONTAINER_FOLDER.findall("\n".join(lines)))
    if Path("/.dockerenv").exists() and re.fullmatch(r"[0-9a-f]{12}", socket.gethostname()):
        found.add(socket.gethostname())
    return frozenset(found)


def is_own(container: Mapping[str, Any]) -> bool:
    """Whether this server runs in a container."""
    return any(str(container["Id"]).startswith(one) for one in own_ids())


def check_not_own(container: Mapping[str, Any]) -> None:
    """Return if a container is not the one that this server runs in.

    Raises:
        Denied: it is.
    """
    if is_own(container):
        name = name_of(container)
        project = str(container["Config"]["Labels"].get("com.docker.compose.project.working_dir") or "")
        service = str(container["Config"]["Labels"].get("com.docker.compose.service") or name)
        line = (
            f"cd {project} && docker compose pull {service} && docker compose up -d {service}"
            if project
            else f"docker pull {container['Config']['Image']}, then create `{name}` again from it"
        )
        raise Denied(
            f"`{name}` is the container that this server runs in, which cannot replace itself",
            hint=f"update it last, on the host: {line}",
        )
