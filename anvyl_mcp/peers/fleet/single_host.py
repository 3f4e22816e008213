"""A fleet of this host only, for questions that must not be forwarded to peers."""

from __future__ import annotations

import re

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.hosts.registry import Peer


class SingleHostFleet(Fleet):
    """This host without its peers. It shares the whole fleet's connection to this host."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet.local, fleet.registry, fleet.catalogue, fleet._connect)
        self._whole = fleet
        self._connections = fleet._connections
        self.call_meta = {protocol_keys.ALONE: True}

    @property
    def peers(self) -> dict[str, Peer]:
        """Only this host."""
        self.local = self._whole.local
        return {self.local.name: self.local}

    @property
    def others(self) -> list[str]:
        """The names of the excluded hosts."""
        return [name for name in self._whole.hosts if name != self.local.name]

    def others_in(self, words: str) -> list[str]:
        """Return the excluded hosts that a text names, by name or by `@tag`."""
        tags = {f"@{tag.lower()}" for peer in self._whole.peers.values() for tag in peer.tags}
        return sorted(_words(words) & {*self.others, *tags})

    def is_named_in(self, words: str) -> bool:
        """Whether a text names this host."""
        return self.local.name in _words(words)


def _words(words: str) -> set[str]:
    return set(re.findall(r"@?[\w-]+(?:\.[\w-]+)*", words.lower()))
