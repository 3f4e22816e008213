"""Choose how to drive a model: with native tool calls, or with a plan that follows a JSON schema."""

from __future__ import annotations

import re
from typing import Literal

from anvyl_mcp.orchestrator.models.model_choice import ModelChoice

DriveMode = Literal["tools", "plan"]

SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)
MAX_PLAN_SIZE = 3.0
"""Billions of parameters up to which a plan gives better results; measured in docs/models.md."""


def drive_mode_for(setting: str, choice: ModelChoice) -> DriveMode:
    """Drive mode for a model; `auto` picks `plan` for small models and for those not trained to use tools."""
    if setting == "tools":
        return "tools"
    if setting == "plan":
        return "plan"
    return "plan" if is_small(choice) or choice.trained_for_tools is False else "tools"


def is_small(choice: ModelChoice) -> bool:
    """Whether a model, by its name, has so few weights that it invents hosts, filters and changes."""
    sizes = [float(size) for size in SIZE.findall(choice.name)]
    return bool(sizes) and min(sizes) <= MAX_PLAN_SIZE
