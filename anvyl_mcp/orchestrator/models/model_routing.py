"""Which of two models a question is for, where the settings name two: a fast one that looks, a smart one that works."""

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
    """The model's name; empty when the settings do not tell this question from others."""
    if not settings.model_smart and not settings.model_fast:
        return ""
    if SEVERAL_STEPS.search(question):
        return settings.model_smart
    return settings.model_fast if read_wish(question, tools).intent == "read" else ""
