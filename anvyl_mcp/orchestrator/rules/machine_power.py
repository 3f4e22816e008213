"""Refuse commands to shut down or restart a machine: Anvyl only changes what runs on it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from anvyl_mcp.core.errors import NotFound
from anvyl_mcp.orchestrator.language.places import named
from anvyl_mcp.orchestrator.language.vocabulary import HOST
from anvyl_mcp.peers.fleet.targets import not_a_container_error

ORDER = re.compile(
    r"(?i)^\W*(?:(?:please|pls|now|hey|anvyl|can|could|would|you|i|we|want|need|to)\W+)*"
    r"(?:(?P<restart>re-?boot|restart|power[\s-]*cycle|reset)|(?P<start>start|boot|wake|(?:turn|power|switch)\s*on)"
    r"|(?P<stop>stop|halt|shut(?:\s*down)?|(?:turn|power|switch)\s*(?:off|down)|poweroff))\b(?P<rest>.*)$",
    re.DOTALL,
)
"""Power commands whose verbs also apply to containers."""
FILLERS = re.compile(
    rf"(?i)\b(?:the|a|my|our|this|that|whole|entire|all|every|each|both|it|up|on|off|down|again|now|please|and|at|of"
    rf"|{HOST}|raspberry|pc|computer|laptop|nodes?|vms?|itself|right|away|once)\b|[\s,.!?'\"]"
)
"""Words that do not name a container."""
MACHINE = re.compile(rf"(?i)\b(?:{HOST}|pc|computer|laptop|nodes?|vms?)\b")


def refused(said: str, hosts: Sequence[str]) -> NotFound | None:
    """Error for a command that is only about machines, else None."""
    order = ORDER.match(said)
    if order is None:
        return None
    rest, places = order["rest"], [host for host in hosts if named(order["rest"], host)]
    if not places and not MACHINE.search(rest):
        return None
    for host in sorted(places, key=len, reverse=True):
        rest = re.sub(rf"(?i)(?<![\w-]){re.escape(host)}(?![\w-])", " ", rest)
    if FILLERS.sub("", rest):
        return None
    verb = next(name for name in ("restart", "start", "stop") if order[name])
    return not_a_container_error(verb, places[0] if len(places) == 1 else "")
