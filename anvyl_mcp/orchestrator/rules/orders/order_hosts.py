"""The hosts of an order: which words name them, and where its objects are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from anvyl_mcp.orchestrator.language.places import BOTH_HOSTS, EVERY_HOST, HERE, named
from anvyl_mcp.orchestrator.language.vocabulary import (
    either,
    kinds_said,
)
from anvyl_mcp.orchestrator.rules.orders.parts import (
    Part,
    Shared,
)
from anvyl_mcp.orchestrator.rules.orders.selection import refused
from anvyl_mcp.orchestrator.rules.orders.words import Words
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.targets import not_found_error


class OrderHosts(Shared):
    """Reads hosts and puts calls on them."""

    def places_in(self, words: str) -> str:
        """Selector of the hosts that words name."""
        return self._take_hosts(Words(words))[0]

    def _take_hosts(self, words: Words) -> tuple[str, bool, bool]:
        """Read the hosts: their selector, whether it is all that have it, and whether exactly two."""
        having = False
        if every := words.take(EVERY_HOST, "host"):
            having = any(match["having"] or match["runs"] or "where" in match[0].lower() for match in every)
        both = bool(words.take(BOTH_HOSTS, "host"))
        called_so = [
            match.span() for pattern in self._objects_called_like_hosts() for match in pattern.finditer(words.left)
        ]
        taken = []
        for match in list(self._scene.places.pattern().finditer(words.left)):
            if not any(begin < match.end() and match.start() < end for begin, end in called_so):
                taken.append(match[0])
                words.take_span(match.start(), match.end(), "host")
        places = self._scene.places.hosts_named(" ".join(taken)) if taken else []
        places = [place for place in places if place != "all"]
        if words.take(HERE, "host"):
            places.append(self._scene.places.local)
        selector = ",".join(dict.fromkeys(places))
        if every and not selector and not having:
            selector = "all"
        return selector, having, both

    def _objects_called_like_hosts(self) -> list[re.Pattern[str]]:
        """Patterns for objects like `the container nas`, which is no host."""
        return [
            re.compile(rf"(?i)\b(?:{either(kinds_said(kind))})\s+{re.escape(host)}(?![\w-])")
            for kind in self._scene.objects
            for host in self._scene.places.hosts
            if host in self._scene.names(kind)
        ]

    def _placed(
        self, listing: ToolListing, calls: list[dict[str, Any]], part: Part, selector: str, *, having: bool, both: bool
    ) -> tuple[list[dict[str, Any]], str]:
        """Calls with their hosts, from these words or earlier ones.

        Raises:
            NotFound: an object is not on the named host.
            NotUnderstood: `both hosts` are not two.
        """
        context = (
            part.text
            if any(named(part.text, str(call.get(name))) for call in calls for name in listing.names)
            else part.before
        )
        if re.search(r"(?i)\bthere\b", part.text):
            context = part.before
        host = selector or self.places_in(context) or self._places
        inherited = "" if host else self._host
        for call in calls:
            names = [(kind, str(call[name])) for name, kind in listing.names.items() if name in call]
            where = [{one.host for one in self._scene.of(kind) if one.name == name} for kind, name in names]
            common = set.intersection(*where) if where else set()
            if self._limits.hosts and not names and not selector:
                raise refused(", ".join(self._limits.hosts), "say on which hosts instead")
            if self._limits.hosts and "host" not in call:
                wanted = set(self._scene.select(selector or "all")) - set(self._limits.hosts)
                wanted &= common if names else wanted
                if not wanted:
                    raise refused(", ".join(self._limits.hosts), "nothing is left without it")
                call["host"] = ",".join(one for one in self._scene.places.hosts if one in wanted)
                self._limits.decided.append(f"without {', '.join(self._limits.hosts)}")
            if (having or both) and "host" not in call:
                if not common or (both and len(common) != 2):
                    raise refused("both" if both else "that have it", "the hosts are not clear")
                call["host"] = ",".join(one for one in self._scene.places.hosts if one in common)
            if "host" in call:
                continue
            if host:
                self._check_there(names, host, every=len(calls) > 1)
                call["host"] = host
            elif inherited and (
                not names
                or common >= set(self._scene.select(inherited))
                or any(name in self._made.values() for _, name in names)
            ):
                call["host"] = inherited
        hosts = {str(call.get("host", "")) for call in calls}
        return calls, host or (hosts.pop() if len(hosts) == 1 else "")

    def _check_there(self, names: Sequence[tuple[str, str]], host: str, *, every: bool) -> None:
        """Check that one of the hosts has each object; `every`: each host, as of several objects one may be a host."""
        if host == "all":
            return
        hosts = self._scene.select(host)
        for kind, name in names:
            having = {one.host for one in self._scene.of(kind) if one.name == name}
            missing = [one for one in hosts if one not in having and one not in self._scene.silent]
            if missing and having and (every or having.isdisjoint(hosts)) and name != self._made.get(kind):
                known = [one.name for one in self._scene.of(kind, [missing[0]])]
                raise not_found_error(kind, name, known, where=missing[0])
