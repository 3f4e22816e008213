"""Connection limits: authenticated connections keep their slot, others lose it when slots run short."""

from __future__ import annotations

import ipaddress
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from anvyl_mcp.server.auth import socket_owner
from anvyl_mcp.server.auth.socket_owner import Address

MAX_CONNECTIONS = 256
"""Per side of a server (loopback, network), so that a flood on one side does not block the other."""
MAX_PER_GROUP = 32
"""Per network address, and per local user other than root and the server's own."""
PATIENCE_SECONDS = 1.0
"""Time for the own user's and root's connections to send a request: many at once are not a flood of idle ones."""


@dataclass(eq=False, slots=True)
class ConnectionSlot:
    """The slot of one connection. `close` ends the connection; `busy` while a complete request is being answered."""

    slots: ConnectionSlots
    group: str
    admitted: bool = False
    busy: bool = False
    close: Callable[[], object] = lambda: None
    since: float = field(default_factory=time.monotonic)

    def admit(self) -> None:
        """Mark the caller as authenticated: the slot is never taken away from it."""
        self.admitted = True

    def leave(self) -> None:
        """Release the slot."""
        self.slots.taken.pop(self, None)


class ConnectionSlots:
    """Counts connections. Unauthenticated ones get three quarters; the oldest is closed when those run short.

    Those of the server's own user and of root may use the rest too until they had time to send their requests.
    """

    def __init__(self, descriptors: int) -> None:
        # A quarter for each side leaves half of all descriptors for the work itself.
        self.most = max(min(MAX_CONNECTIONS, descriptors // 4), 1)
        self.taken: dict[ConnectionSlot, None] = {}
        """Oldest first."""

    def take(self, peer: Address, own: Address) -> ConnectionSlot | None:
        """Take a slot for a connection from `peer` to `own`, or return None if none is free."""
        group, limited = _group_of(peer, own)
        if limited and sum(slot.group == group for slot in self.taken) >= MAX_PER_GROUP and not self._free(group):
            return None
        unauthenticated = sum(not slot.admitted for slot in self.taken)
        full = len(self.taken) >= self.most
        short = unauthenticated >= self.most - self.most // 4
        if (full or (short and (limited or not self._are_new()))) and not self._free():
            return None
        slot = ConnectionSlot(self, group)
        self.taken[slot] = None
        return slot

    def _are_new(self) -> bool:
        """Return whether no unauthenticated connection has been idle for long."""
        latest = time.monotonic() - PATIENCE_SECONDS
        return not any(slot.since < latest for slot in self.taken if not slot.admitted and not slot.busy)

    def _free(self, group: str = "") -> bool:
        """Close the oldest idle unauthenticated connection of `group`, or of the largest group; return if one was."""
        idle = [slot for slot in self.taken if not slot.admitted and not slot.busy]
        group = group or next((name for name, _ in Counter(slot.group for slot in idle).most_common(1)), "")
        oldest = next((slot for slot in idle if slot.group == group), None)
        if oldest is None:
            return False
        oldest.leave()
        oldest.close()
        return True


def _group_of(peer: Address, own: Address) -> tuple[str, bool]:
    """Return the group a connection is counted in, and whether `MAX_PER_GROUP` applies to the group."""
    parsed = ipaddress.ip_address(peer[0].partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    parsed = mapped or parsed
    if parsed.is_loopback:
        found = socket_owner.find(peer, own)
        return (f"uid:{found.uid}", found.uid not in (0, os.geteuid())) if found else ("", False)
    if isinstance(parsed, ipaddress.IPv6Address):
        # One machine may use a whole /64.
        return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64)), True
    return str(parsed), True
