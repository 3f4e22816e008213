"""A change worked out from the words alone: what they order, what they name. For when a model makes nothing of it.

`I want certbot gone from web2` is no phrase of a tool, but it orders a removal and names one container: that is enough.
A person is asked before it is done, as before any change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anvyl_mcp.orchestrator import resolving
from anvyl_mcp.orchestrator.grounding import images_in, named
from anvyl_mcp.orchestrator.guard import Guard
from anvyl_mcp.orchestrator.quantified import of_all
from anvyl_mcp.orchestrator.vocabulary import REFUSING
from anvyl_mcp.orchestrator.wish import verbs_of
from anvyl_mcp.peers.listing import ToolListing


async def derived(guard: Guard, said: str, tools: Iterable[ToolListing]) -> tuple[ToolListing, dict[str, Any]] | None:
    """The one change that the words order, of an object that they name; None when that is not clear."""
    if guard.wish.intent != "change" or REFUSING.search(said):
        return None
    found: list[tuple[ToolListing, dict[str, Any]]] = []
    for listing in tools:
        if listing.reads or not guard.wish.verbs & verbs_of(listing):
            continue
        images = images_in(said)
        if set(listing.arguments) == {"image"} and not listing.names and len(images) == 1:
            found.append((listing, {"image": images[0]}))
        if len(listing.names) != 1 or set(listing.required) != set(listing.names):
            continue
        [(argument, kind)] = listing.names.items()
        if kind != "container" and not named(said, kind):
            continue
        meant = sorted({one.name for one in resolving.candidates(said, await guard.inventory.objects(kind))})
        # Of several one stands for all where all are meant; the guard makes a call for each.
        if len(meant) == 1 or (meant and of_all(said, kind)):
            found.append((listing, {argument: meant[0]}))
    return found[0] if len(found) == 1 else None
