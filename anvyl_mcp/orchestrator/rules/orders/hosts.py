"""The hosts of an order: which words name them, and where its objects are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from anvyl_mcp.orchestrator.language.places import BOTH_HOSTS, EVERY_HOST, HERE, Scope, named
from anvyl_mcp.orchestrator.language.vocabulary import either, kinds_said
from anvyl_mcp.orchestrator.rules.orders.order import Order
from anvyl_mcp.orchestrator.rules.orders.remarks import refused
from anvyl_mcp.orchestrator.rules.orders.scene import Scene
from anvyl_mcp.orchestrator.rules.orders.words import Words
from anvyl_mcp.peers.fleet.targets import not_found_error

BOTH = re.compile(r"(?i)\bboth\b")
"""Of one name: those on two hosts."""


def hosts_in(said: str, scene: Scene) -> str:
    """Selector of the hosts that a text names."""
    return take_hosts(Words(said), scene).selector


def take_hosts(words: Words, scene: Scene) -> Scope:
    """Read the hosts."""
    every = words.take(EVERY_HOST, "host")
    having = any(match["having"] or match["runs"] or "where" in match[0].lower() for match in every)
    both = bool(words.take(BOTH_HOSTS, "host"))
    called_so = [match.span() for match in _called_like_hosts(scene).finditer(words.left)]
    taken = []
    for match in scene.places.pattern().finditer(words.left):
        if not any(begin < match.end() and match.start() < end for begin, end in called_so):
            taken.append(match[0])
            words.take_span(match.start(), match.end(), "host")
    places = [place for place in scene.places.hosts_named(" ".join(taken)) if place != "all"] if taken else []
    if words.take(HERE, "host"):
        places.append(scene.places.local)
    return Scope(",".join(dict.fromkeys(places)) or ("all" if every and not having else ""), having, both)


def _called_like_hosts(scene: Scene) -> re.Pattern[str]:
    """Pattern for objects like `the container nas`, which is no host."""
    called = [
        rf"\b(?:{either(kinds_said(kind))})\s+{re.escape(name)}(?![\w-])"
        for kind in scene.objects
        for name in scene.names(kind)
        if name in scene.places.hosts
    ]
    return re.compile("|".join(called) or "(?!)", re.IGNORECASE)


def place(order: Order) -> None:
    """Put the calls of an order on their hosts, from its own words or from earlier ones.

    Raises:
        NotFound: an object is not on the named host.
        NotUnderstood: `both hosts` are not two.
    """
    scene, part, scope, memory = order.scene, order.part, order.scope, order.memory
    names_one = any(named(part.text, str(call.get(name))) for call in order.calls for name in order.listing.names)
    context = part.text if names_one and not re.search(r"(?i)\bthere\b", part.text) else part.before
    order.host = scope.selector or hosts_in(context, scene) or memory.places
    both = scope.both or (len(order.calls) == 1 and bool(order.listing.names) and BOTH.search(order.words.left))
    for call in order.calls:
        names = [(kind, str(call[name])) for name, kind in order.listing.names.items() if name in call]
        having = [{one.host for one in scene.of(kind) if one.name == name} for kind, name in names]
        common = set.intersection(*having) if having else set()
        if memory.limits.hosts and "host" not in call:
            call["host"] = _spared(order, common, names)
        elif "host" in call:
            continue
        elif scope.having or (both and not order.host):
            if not common or (both and len(common) != 2):
                raise refused("both" if both else "that have it", "the hosts are not clear")
            order.words.take(BOTH, "number")
            call["host"] = ",".join(one for one in scene.places.hosts if one in common)
        elif order.host:
            _check_there(order, names)
            call["host"] = order.host
        elif memory.host:
            made = any(name in memory.made.values() for _, name in names)
            if not names or made or common >= set(scene.select(memory.host)):
                call["host"] = memory.host
    hosts = {str(call.get("host", "")) for call in order.calls}
    order.host = order.host or (hosts.pop() if len(hosts) == 1 else "")


def _spared(order: Order, having: set[str], names: Sequence[Any]) -> str:
    """The hosts of a call without those that are left out."""
    spared = order.memory.limits.hosts
    if not names and not order.scope.selector:
        raise refused(", ".join(spared), "say on which hosts instead")
    wanted = set(order.hosts or order.scene.places.hosts) - set(spared)
    wanted &= having if names else wanted
    if not wanted:
        raise refused(", ".join(spared), "nothing is left without it")
    order.decided.append(f"without {', '.join(spared)}")
    return ",".join(one for one in order.scene.places.hosts if one in wanted)


def _check_there(order: Order, names: Sequence[tuple[str, str]]) -> None:
    """Check that one of the hosts has each object; each host, for several objects, as one of them may be a host."""
    if order.host == "all":
        return
    scene, hosts = order.scene, order.scene.select(order.host)
    for kind, name in names:
        having = {one.host for one in scene.of(kind) if one.name == name}
        missing = [one for one in hosts if one not in having and one not in scene.silent]
        every = len(order.calls) > 1 or having.isdisjoint(hosts)
        if missing and having and every and name != order.memory.made.get(kind):
            known = [one.name for one in scene.of(kind, [missing[0]])]
            raise not_found_error(kind, name, known, where=missing[0])
