"""Route a question to the fast or the smart model, if the settings name them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from anvyl_mcp.core.settings import Settings
from anvyl_mcp.orchestrator.language.intent import read_wish
from anvyl_mcp.peers.connection.listing import ToolListing

SEVERAL_STEPS = re.compile(
    r"\b(?:then|afterwards|after that|once|first|next|finally|unless|compare|diagnose|investigate|find out|why)\b|;",
    re.IGNORECASE,
)


def model_for(settings: Settings, question: str, tools: Iterable[ToolListing]) -> str:
    """Name of the model for this question; empty if the settings name none for it."""
    if not settings.model_smart and not settings.model_fast:
        return ""
    if SEVERAL_STEPS.search(question):
        return settings.model_smart
    return settings.model_fast if read_wish(question, tools).intent == "read" else ""
