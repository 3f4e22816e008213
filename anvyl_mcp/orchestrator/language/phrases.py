"""Phrases of tools, like `stop {name}`: their placeholders, their words, and examples for hints."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.vocabulary import ARTICLES, CONNECTORS, GLUE, meanings
from anvyl_mcp.peers.connection.listing import ToolListing

SAMPLES = {"name": "web", "image": "nginx", "command": "uptime"}
USUAL = ("list", "inspect", "restart")
"""First words of the phrases used as examples for an unrelated question."""


def examples(tools: Iterable[ToolListing], question: str) -> str:
    """Hint with example phrases: those that share words with the question, else general ones."""
    said = set(meanings(question))
    spoken_for = [tool.say[0] for tool in tools if tool.say]
    near = [phrase for phrase in spoken_for if literals(phrase) and literals(phrase) <= said]
    shown = near or [phrase for phrase in spoken_for if phrase.split()[0] in USUAL] or spoken_for
    filled = [re.sub(r"\{(\w+)\}", lambda hole: SAMPLES.get(hole[1], hole[1]), phrase) for phrase in shown[:3]]
    words = "say it like " + text.join_names([f"`{phrase}`" for phrase in filled])
    return words if near else f"{words}; a language model understands more: anvyl doctor"


def holes(phrase: str) -> list[str]:
    """Placeholders of a phrase."""
    return re.findall(r"\{(\w+)\}", phrase)


@lru_cache(maxsize=512)
def literals(phrase: str) -> frozenset[str]:
    """Normalized words that a sentence needs to match this phrase."""
    return frozenset(meanings(re.sub(r"\{\w+\}", "", phrase))) - ARTICLES - GLUE - CONNECTORS
