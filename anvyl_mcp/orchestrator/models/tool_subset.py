"""Which tools a model gets to see for a question: few, and one of few fixed sets, so that a server's cache holds.

The set is chosen from the words of the question before the first request, and stays for the whole question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from anvyl_mcp.orchestrator.language.grounding import images_in
from anvyl_mcp.orchestrator.language.intent import Wish, read_wish, verbs_of
from anvyl_mcp.orchestrator.language.normalize import mask
from anvyl_mcp.orchestrator.language.stemming import stem, stems
from anvyl_mcp.orchestrator.language.vocabulary import FREE_TEXT, MARK, meaning
from anvyl_mcp.orchestrator.rules.tool_scores import LEAST, Fit, fits
from anvyl_mcp.peers.connection.listing import ToolListing

MOST_VISIBLE = 12
ALWAYS = ("containers", "fleet")
"""Toolsets for the questions of no other: four in five."""
NEVER = ("undo",)
"""Toolsets that no model sees: what is undone is shown to a person first."""
SHARED = frozenset({"remove", "create", "run"})
"""Verbs of several toolsets."""
OF_AN_ORDER = 1.2
"""Evidence beside an order, whose words speak for tools that look as well."""
CLOSELY = 0.6
"""Of the most that speaks for any tool, what makes the tool's set one that the question is about."""
USUAL = (
    "list_containers", "get_container_info", "get_container_logs", "create_container", "restart_container",
    "stop_container", "start_container", "get_container_stats", "remove_container", "exec_in_container",
)  # fmt: skip
"""Container tools by how often they are wanted beside others."""


def choose(said: str, catalogue: Mapping[str, ToolListing]) -> frozenset[str]:
    """The names of the tools for a question."""
    found = fits(said, [listing for listing in catalogue.values() if listing.reads])
    topics = _topics(said, catalogue, found)
    names = [name for name, listing in catalogue.items() if listing.toolset in topics][:MOST_VISIBLE]
    wish = read_wish(said, catalogue.values())
    wanted = [fit.listing.name for fit in found if fit.listing.toolset == "containers" and fit.weight >= LEAST]
    wanted += [name for name in USUAL if name in catalogue and _ordered(catalogue[name], wish)]
    fleet = [name for name, listing in catalogue.items() if listing.toolset == "fleet"]
    others = [name for name, listing in catalogue.items() if listing.toolset == "containers"]
    first, last = list(USUAL[:2]), [name for name in USUAL[2:] if name not in wanted]
    for name in [*fleet, *first, *wanted, *last, *others]:
        if name in catalogue and name not in names and len(names) < MOST_VISIBLE:
            names.append(name)
    return frozenset(names)


def _ordered(listing: ToolListing, wish: Wish) -> bool:
    return not listing.reads and bool(wish.verbs & verbs_of(listing))


def _topics(said: str, catalogue: Mapping[str, ToolListing], found: Sequence[Fit]) -> list[str]:
    """The toolsets that a question is about: those that its words speak for most, and those of what it orders."""
    words, wish = set(stems(said)), read_wish(said, catalogue.values())
    least = max(OF_AN_ORDER if wish.verbs else LEAST, CLOSELY * max((fit.weight for fit in found), default=0.0))
    about = {fit.listing.toolset for fit in found if fit.weight >= least}
    for listing in catalogue.values():
        noun = listing.name.rpartition("_")[2]
        image = listing.toolset == "images" and bool(images_in(said))
        own = meaning(listing.name.partition("_")[0]) in wish.verbs - SHARED
        if FREE_TEXT & listing.arguments.keys():
            own = bool(re.search(MARK, mask(said)[0])) or "execute" in words
            noun = ""
        if _ordered(listing, wish) and (stem(noun) in words or image or own):
            about.add(listing.toolset)
    return [
        toolset
        for toolset in dict.fromkeys(one.toolset for one in catalogue.values())
        if toolset in about - {*ALWAYS, *NEVER}
    ]
