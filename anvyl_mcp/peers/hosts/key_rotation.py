"""Follow a host's change of its TLS key: it announces the next key over a connection that its current key secures.

Only the holder of the current key can announce the next one: announcements are accepted only over connections whose
handshake verified a pinned key. Until the next key is used, both are pinned.
"""

from __future__ import annotations

import logging

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.core.invitation import pin_digest
from anvyl_mcp.peers.connection.tls_pinning import NextPin
from anvyl_mcp.peers.hosts.registry import Peer, Registry

log = logging.getLogger(__name__)


def next_key(registry: Registry, peer: Peer) -> NextPin | None:
    """Return the next key that a connection should accept; once the host uses it, the old one is unpinned."""
    if not peer.next_pin:
        return None
    return NextPin(peer.next_pin, lambda: _save(registry, peer, pin=peer.next_pin, next_pin=""))


def record_announced_key(registry: Registry, peer: Peer, key: str) -> None:
    """Record the key that a host announced over a connection with the keys of `peer`."""
    if not peer.pin or key in ("", peer.next_pin):
        return
    try:
        pin_digest(key)
    except AnvylError:
        return
    # Announcing the current key cancels an earlier announcement.
    wanted = "" if key == peer.pin else key
    if wanted != peer.next_pin:
        _save(registry, peer, pin=peer.pin, next_pin=wanted)


def _save(registry: Registry, peer: Peer, *, pin: str, next_pin: str) -> None:
    """Save the pins. A write error must not fail the call; the next answer announces the key again."""
    try:
        registry.set_pins(peer, pin=pin, next_pin=next_pin)
    except AnvylError as error:
        log.warning("the new key of `%s` could not be saved: %s", peer.name, error)
