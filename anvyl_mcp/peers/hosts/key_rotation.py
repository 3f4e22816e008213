"""A host changes its key: it says so over the channel that its present key protects, and is known by both for a while.

Only who holds the present key can announce the next one: an announcement counts when it came over a connection whose
handshake proved a key that the host is known by.
"""

from __future__ import annotations

import logging

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.core.invitation import pin_digest
from anvyl_mcp.peers.connection.tls_pinning import NextKey
from anvyl_mcp.peers.hosts.registry import Peer, Registry

log = logging.getLogger(__name__)


def next_key(registry: Registry, peer: Peer) -> NextKey | None:
    """What a connection to this host should also accept: once it proves the next key, the old one is forgotten."""
    if not peer.next_pin:
        return None
    return NextKey(peer.next_pin, lambda: _save(registry, peer, pin=peer.next_pin, next_pin=""))


def record_announced_key(registry: Registry, peer: Peer, key: str) -> None:
    """Take note of the key that this host, reached with the keys of `peer`, has or will have."""
    if not peer.pin or key in ("", peer.next_pin):
        return
    try:
        pin_digest(key)
    except AnvylError:
        return
    # Its present key once more: what it announced before is called off.
    wanted = "" if key == peer.pin else key
    if wanted != peer.next_pin:
        _save(registry, peer, pin=peer.pin, next_pin=wanted)


def _save(registry: Registry, peer: Peer, *, pin: str, next_pin: str) -> None:
    """A file that cannot be written must not end the call that brought the news; the next one brings it again."""
    try:
        registry.set_pins(peer, pin=pin, next_pin=next_pin)
    except AnvylError as error:
        log.warning("the new key of `%s` could not be kept: %s", peer.name, error)
