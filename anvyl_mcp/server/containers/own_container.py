"""The container that this server runs in, if any, and containers through which it reaches Docker."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anvyl_mcp.core.errors import Denied
from anvyl_mcp.server.engine import compat
from anvyl_mcp.server.engine.engine import Engine

CONTAINER_FOLDER = re.compile(r"containers/([0-9a-f]{64})/")
"""Where Docker and Podman keep a container's hostname file, which they mount into the container."""
SHARED_FILES = ("/etc/hostname", "/etc/resolv.conf", "/etc/hosts", "/run/.containerenv")
LAYER = re.compile(r"upperdir=(?:[^,]*/)?([^/,]+)/(?:diff|fs)\b")


@dataclass(frozen=True, slots=True)
class OwnMounts:
    """What the mounts of this process tell. `ids`: this container, or the one whose network it shares."""

    ids: frozenset[str] = frozenset()
    layer: str = ""
    places: frozenset[str] = frozenset()


@cache
def own_mounts() -> OwnMounts:
    """Read the mounts of this process; nothing outside of containers."""
    found = OwnMounts()
    with suppress(OSError):
        found = parse_mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"))
    if Path("/.dockerenv").exists() and re.fullmatch(r"[0-9a-f]{12}", socket.gethostname()):
        return OwnMounts(found.ids | {socket.gethostname()}, found.layer, found.places)
    return found


def parse_mounts(mountinfo: str) -> OwnMounts:
    """Parse `/proc/self/mountinfo`."""
    ids, layer, places = set[str](), "", set[str]()
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) < 5:
            continue
        source, place = fields[3], fields[4]
        places.add(place)
        if place in SHARED_FILES:
            ids |= set(CONTAINER_FOLDER.findall(source))
        elif place == "/" and (upper := LAYER.search(line)):
            layer = upper[1]
    return OwnMounts(frozenset(ids), layer, frozenset(places))


def is_own(container: Mapping[str, Any], mounts: OwnMounts | None = None) -> bool:
    """Whether this server runs in an inspected container."""
    here = own_mounts() if mounts is None else mounts
    mode, _, joined = str(container["HostConfig"].get("NetworkMode") or "").partition(":")
    candidates = [str(container["Id"]), *([joined] if mode == "container" else [])]
    if not any(one.startswith(known) for one in candidates for known in here.ids):
        return False
    # Containers that share a network share the files that name one of them; their layers and mounts differ.
    graph = compat.mapping(compat.mapping(container.get("GraphDriver")).get("Data"))
    upper = Path(compat.string(graph.get("UpperDir")))
    if here.layer and upper.name:
        return upper.parent.name == here.layer
    return {str(one.get("Destination")) for one in container["Mounts"]} <= here.places


def check_not_own(container: Mapping[str, Any], stack: str = "") -> None:
    """Return if this server goes on when an inspected container is stopped or removed. `stack`: the one it is in.

    Raises:
        Denied: this server runs in it, and nothing would start it again.
    """
    if is_own(container):
        where = f"`{_name_of(container)}`{f' of the stack `{stack}`' if stack else ''}"
        raise Denied(
            f"this server runs in {where}, and could not start again by itself",
            hint=f"{'change the other containers one by one, or ' if stack else ''}use docker on the host",
        )


def check_keeps_engine(engine: Engine, containers: Sequence[Mapping[str, Any]]) -> None:
    """Return if this server still reaches Docker while these inspected containers are replaced.

    Raises:
        Denied: it reaches Docker through one of them, and could not bring that one back.
    """
    if engine.socket is not None:
        return
    host = urlsplit(engine.endpoint.url).hostname or ""
    addresses = _addresses(host)
    for one in containers:
        networks = compat.mapping(one["NetworkSettings"].get("Networks")).values()
        names = {_name_of(one), *(str(alias) for net in networks for alias in compat.mapping(net).get("Aliases") or ())}
        used = {str(compat.mapping(net).get(key)) for net in networks for key in ("IPAddress", "GlobalIPv6Address")}
        if own_mounts().ids and (host in names or not addresses.isdisjoint(used)):
            raise Denied(
                f"this server reaches Docker through `{_name_of(one)}`, and could not bring it back if it failed",
                hint="update it on the host, with docker",
            )


def _name_of(container: Mapping[str, Any]) -> str:
    return str(container["Name"]).lstrip("/")


def _addresses(host: str) -> frozenset[str]:
    with suppress(OSError, UnicodeError):
        return frozenset(str(one[4][0]) for one in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    return frozenset()
