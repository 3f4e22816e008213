"""How a model is driven: by tool calls of its own, or by a plan whose form is forced."""

from __future__ import annotations

import re
from typing import Literal

from anvyl_mcp.orchestrator.models.model_choice import ModelChoice

Drive = Literal["tools", "plan"]

SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)
SMALL = 3.0
"""Billions of weights up to which a plan does better; measured in docs/models.md."""


def drive_for(setting: str, choice: ModelChoice) -> Drive:
    """As set; `auto` lets small models, and those that were not trained to use tools, plan."""
    if setting == "tools":
        return "tools"
    if setting == "plan":
        return "plan"
    sizes = [float(size) for size in SIZE.findall(choice.name)]
    small = bool(sizes) and min(sizes) <= SMALL
    return "plan" if small or choice.trained_for_tools is False else "tools"
