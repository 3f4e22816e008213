"""Places for connections: callers that proved who they are keep theirs, strangers hold none for long."""

from __future__ import annotations

import ipaddress
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from anvyl_mcp.server.auth import socket_owner
from anvyl_mcp.server.auth.socket_owner import Address

MOST_CONNECTIONS = 256
"""To one side of a server, loopback or network: a full side does not close the other."""
MOST_EACH = 32
"""Of one address of the network, or of one user of this machine that is neither root nor the server's own."""


@dataclass(eq=False, slots=True)
class Place:
    """One connection's place. `close` ends the connection; `busy` while its complete request is being answered."""

    places: Places
    group: str
    admitted: bool = False
    busy: bool = False
    close: Callable[[], object] = lambda: None

    def admit(self) -> None:
        """The caller has proved who it is: the place is not taken away any more."""
        self.admitted = True

    def leave(self) -> None:
        """Give the place back."""
        self.places.taken.pop(self, None)


class Places:
    """Counts connections. Strangers get three quarters, and make room for each other when these run short."""

    def __init__(self, descriptors: int) -> None:
        # A quarter for each side leaves half of all descriptors for the work itself.
        self.most = max(min(MOST_CONNECTIONS, descriptors // 4), 1)
        self.taken: dict[Place, None] = {}
        """In the order of their arrival."""

    def take(self, peer: Address, own: Address) -> Place | None:
        """A place for a connection from `peer` to `own`; None when there is none."""
        group, limited = _group_of(peer, own)
        if limited and sum(place.group == group for place in self.taken) >= MOST_EACH and not self._free(group):
            return None
        strangers = sum(not place.admitted for place in self.taken)
        full = len(self.taken) >= self.most or strangers >= self.most - self.most // 4
        if full and not self._free():
            return None
        place = Place(self, group)
        self.taken[place] = None
        return place

    def _free(self, group: str = "") -> bool:
        """End the oldest connection of a stranger, of `group` or of the one that has most; whether there was one."""
        idle = [place for place in self.taken if not place.admitted and not place.busy]
        group = group or next((name for name, _ in Counter(place.group for place in idle).most_common(1)), "")
        oldest = next((place for place in idle if place.group == group), None)
        if oldest is None:
            return False
        oldest.leave()
        oldest.close()
        return True


def _group_of(peer: Address, own: Address) -> tuple[str, bool]:
    """Whose places a connection counts among, and whether that one may have only a part of them."""
    parsed = ipaddress.ip_address(peer[0].partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    parsed = mapped or parsed
    if parsed.is_loopback:
        found = socket_owner.find(peer, own)
        return (f"uid:{found.uid}", found.uid not in (0, os.geteuid())) if found else ("", False)
    if isinstance(parsed, ipaddress.IPv6Address):
        # One machine has all of a network of 64 bits.
        return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64)), True
    return str(parsed), True
