"""Identity of this host, injected into tools."""

from __future__ import annotations

from dataclasses import dataclass

from anvyl_mcp.server.tool import Injected


@dataclass(frozen=True)
class HostIdentity(Injected):
    """This host's name in the fleet."""

    name: str
