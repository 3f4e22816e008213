"""Whether hosts answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from anvyl_mcp.errors import AnvylError
from anvyl_mcp.peers.fleet import Fleet


@dataclass(frozen=True)
class HostHealth:
    """One host as it is now: `status` is `ok`, or a word and a reason."""

    name: str
    url: str
    tags: tuple[str, ...]
    status: str
    version: str = ""
    hint: str = ""

    @property
    def ok(self) -> bool:
        """Whether it answers."""
        return self.status == "ok"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.ok,
            "url": self.url,
            "status": self.status,
            "tags": list(self.tags),
            "version": self.version,
            "hint": self.hint,
        }


async def check(fleet: Fleet, name: str) -> HostHealth:
    """Ask one host."""
    peer = fleet.peers[name]
    try:
        version = await fleet.version(name)
    except AnvylError as error:
        return HostHealth(name, peer.url, peer.tags, f"{error.code}: {error.message}", hint=error.hint)
    return HostHealth(name, peer.url, peer.tags, "ok", version)


async def check_hosts(fleet: Fleet, names: Sequence[str]) -> list[HostHealth]:
    """Ask several hosts at once, in the order of `names`."""
    found: dict[str, HostHealth] = {}

    async def one(name: str) -> None:
        found[name] = await check(fleet, name)

    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(one, name)
    return [found[name] for name in names]
