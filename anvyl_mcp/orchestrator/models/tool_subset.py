"""Which tools a model sees: the common ones for a capable model, one of a few small sets for others.

A small set is selected from the words of the question before the first request. Both stay the same for the whole
question, so that the server's prompt cache works.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from anvyl_mcp.orchestrator.language.grounding import images_in
from anvyl_mcp.orchestrator.language.intent import Wish, read_wish, verbs_of
from anvyl_mcp.orchestrator.language.normalize import mask
from anvyl_mcp.orchestrator.language.stemming import stem, stems
from anvyl_mcp.orchestrator.language.vocabulary import FREE_TEXT, MARK, meaning
from anvyl_mcp.orchestrator.rules.tool_scores import LEAST, Fit, fits
from anvyl_mcp.peers.connection.listing import ToolListing

MAX_VISIBLE = 12
ALWAYS_VISIBLE = ("containers", "fleet")
"""Toolsets that are always considered; four of five questions need no other."""
NEVER_VISIBLE = ("undo",)
"""Toolsets that no model sees: an undo is shown to the user first."""
SHARED_VERBS = frozenset({"remove", "create", "run", "start", "stop", "restart", "update"})
"""Verbs that occur in several toolsets."""
MIN_SCORE_WITH_CHANGE = 1.2
"""Minimum score next to a command, whose words score for reading tools too."""
RELATIVE_SCORE = 0.6
"""Fraction of the best score from which a tool's toolset is included."""
OBVIOUS = ("container name or id", "last lines")
"""Descriptions of arguments without which a capable model calls no differently."""
COMMON_TOOLS = (
    "list_containers", "get_container_info", "get_container_logs", "create_container", "restart_container",
    "stop_container", "start_container", "get_container_stats", "remove_container", "exec_in_container", "list_history",
)  # fmt: skip
"""Tools that are shown if nothing else is needed, the most frequently needed first."""


def select_tools(question: str, catalogue: Mapping[str, ToolListing]) -> frozenset[str]:
    """Names of the tools for a question."""
    found = fits(question, [listing for listing in catalogue.values() if listing.reads])
    topics = _topics(question, catalogue, found)
    names = [name for name, listing in catalogue.items() if listing.toolset in topics][:MAX_VISIBLE]
    wish = read_wish(question, catalogue.values())
    wanted = [fit.listing.name for fit in found if fit.listing.toolset == "containers" and fit.weight >= LEAST]
    wanted += [name for name in COMMON_TOOLS if name in catalogue and _is_requested(catalogue[name], wish)]
    fleet = [name for name, listing in catalogue.items() if listing.toolset == "fleet"]
    others = [name for name, listing in catalogue.items() if listing.toolset == "containers"]
    first, last = list(COMMON_TOOLS[:2]), [name for name in COMMON_TOOLS[2:] if name not in wanted]
    for name in [*fleet, *first, *wanted, *last, *others]:
        if name in catalogue and name not in names and len(names) < MAX_VISIBLE:
            names.append(name)
    return frozenset(names)


def common_tools(catalogue: Mapping[str, ToolListing]) -> frozenset[str]:
    """Names of the tools that a capable model sees from the start: the same for every question."""
    return frozenset(name for name, listing in catalogue.items() if _is_visible(listing) and not listing.rare)


def rare_tools(catalogue: Mapping[str, ToolListing]) -> dict[str, ToolListing]:
    """The tools that a capable model sees once it has asked for them."""
    return {name: listing for name, listing in catalogue.items() if _is_visible(listing) and listing.rare}


def _is_visible(listing: ToolListing) -> bool:
    return listing.toolset not in NEVER_VISIBLE


def compact_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """An arguments' schema in fewer tokens: without bounds, defaults and the obvious; the prompt explains `host`."""
    properties = {name: _compact_argument(argument) for name, argument in schema["properties"].items()}
    if "host" in properties:
        properties["host"] = {"type": "string"}
    return {**{key: value for key, value in schema.items() if key != "additionalProperties"}, "properties": properties}


def _compact_argument(argument: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in argument.items()
        if key not in ("minimum", "maximum", "default") and value not in OBVIOUS
    }


def _is_requested(listing: ToolListing, wish: Wish) -> bool:
    return not listing.reads and bool(wish.verbs & verbs_of(listing))


def _topics(question: str, catalogue: Mapping[str, ToolListing], found: Sequence[Fit]) -> list[str]:
    """Toolsets for a question: those that score best, and those of the changes that it asks for."""
    words, wish = set(stems(question)), read_wish(question, catalogue.values())
    least = max(
        MIN_SCORE_WITH_CHANGE if wish.verbs else LEAST, RELATIVE_SCORE * max((fit.weight for fit in found), default=0.0)
    )
    selected = {fit.listing.toolset for fit in found if fit.weight >= least and fit.listing.name not in COMMON_TOOLS}
    for listing in catalogue.values():
        noun = listing.name.rpartition("_")[2]
        image = listing.toolset == "images" and bool(images_in(question))
        own = meaning(listing.name.partition("_")[0]) in wish.verbs - SHARED_VERBS
        if FREE_TEXT & listing.arguments.keys():
            own = bool(re.search(MARK, mask(question)[0])) or "execute" in words
            noun = ""
        if _is_requested(listing, wish) and (stem(noun) in words or image or own):
            selected.add(listing.toolset)
    return [
        toolset
        for toolset in dict.fromkeys(one.toolset for one in catalogue.values())
        if toolset in selected - {*ALWAYS_VISIBLE, *NEVER_VISIBLE}
    ]
