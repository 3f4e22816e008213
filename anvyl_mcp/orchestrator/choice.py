"""Which tools a model gets to see for a question: few, and one of few fixed sets, so that a server's cache holds.

The set is chosen from the words of the question before the first request, and stays for the whole question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from anvyl_mcp.orchestrator.vocabulary import meaning
from anvyl_mcp.orchestrator.wish import Wish, read_wish, verbs_of
from anvyl_mcp.peers.listing import ToolListing

MOST_VISIBLE = 12
ALWAYS = ("containers", "fleet")
"""Toolsets for the questions of no other: four in five."""
NEVER = ("undo",)
"""Toolsets that no model sees: what is undone is shown to a person first."""
TOPICS = {
    "host": r"memory|ram|cpus?|cores?|processors?|load|disks?|space|storage|room|headroom|swap|uptime|kernel|os"
    r"|operating systems?|architecture|processes|process|temperatures?|hot|busy|busiest|idle|idlest|resources?"
    r"|hardware|docker|run [`'\"][^`'\"]+[`'\"]|run (?:the )?command|execute|host info"
    r"|(?:which|what) (?:host|machine|server)s?(?! (?:are there|do i have|are known))|kind of machine"
    r"|up(?: the)? longest|how long",
    "images": r"images?|pull|pulled|download|fetch|registry|tags?",
    "networks": r"networks?|connect|disconnect|subnets?",
    "volumes": r"volumes?",
    "system": r"prune|unused|reclaim|reclaimable|clean ?up|tidy|events?|happened|build cache|(?:space|disk).*docker"
    r"|docker.*(?:space|disk)",
    "stacks": r"stacks?|compose",
    "swarm": r"swarm|services?|nodes?|replicas?|scale",
}
"""How people speak of what a toolset is about."""
OF_CONTAINERS = re.compile(r"\bcontainers?\b", re.IGNORECASE)
OF_HOSTS = re.compile(r"\b(?:hosts?|machines?|servers?|box(?:es)?)\b", re.IGNORECASE)
"""Memory and cpu are spoken of for both."""
USUAL = (
    "list_containers", "get_container_info", "create_container", "restart_container", "stop_container",
    "start_container", "get_container_stats", "get_container_logs", "remove_container", "exec_in_container",
)  # fmt: skip
"""Container tools by how often they are wanted beside others."""
WORDS = {"get_container_logs": r"\blogs?\b|\berrors?\b|\bwhy\b"}
"""Words that bring a container tool along when there is not room for all; what is ordered comes along anyway."""


def choose(said: str, catalogue: Mapping[str, ToolListing]) -> frozenset[str]:
    """The names of the tools for a question."""
    topics = [
        toolset
        for toolset in _toolsets(catalogue)
        if toolset not in (*ALWAYS, *NEVER) and _speaks_of(said, toolset, catalogue)
    ]
    names = [name for name, listing in catalogue.items() if listing.toolset in topics][:MOST_VISIBLE]
    wish = read_wish(said, catalogue.values())
    wanted = [name for name, words in WORDS.items() if re.search(words, said, re.IGNORECASE)]
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


def _toolsets(catalogue: Mapping[str, ToolListing]) -> list[str]:
    return list(dict.fromkeys(listing.toolset for listing in catalogue.values()))


def _speaks_of(said: str, toolset: str, catalogue: Mapping[str, ToolListing]) -> bool:
    if toolset == "host" and OF_CONTAINERS.search(said) and not OF_HOSTS.search(said):
        return False
    pattern = TOPICS.get(toolset) or _named(toolset, catalogue)
    return bool(re.search(rf"(?<!\w)(?:{pattern})(?!\w)", said, re.IGNORECASE))


def _named(toolset: str, catalogue: Mapping[str, ToolListing]) -> str:
    """A toolset that nobody wrote words for is spoken of by its name and by what its tools are called after."""
    nouns = {part for name, one in catalogue.items() if one.toolset == toolset for part in name.split("_")[1:]}
    nouns |= {toolset} | {meaning(noun) for noun in nouns}
    return "|".join(sorted(re.escape(noun) for noun in nouns if len(noun) > 2)) or "(?!)"
