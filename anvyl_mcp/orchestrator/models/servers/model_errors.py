"""Hints for errors of a model server, found by patterns in the message.

No agent or model library is imported: `anvyl doctor` must stay fast.
"""

from __future__ import annotations

import re

ANOTHER_MODEL = "choose a model that was trained to use tools: anvyl models"
USE_PLAN = "or let this one plan: export ANVYL_DRIVE=plan"
NO_TOOLS = (
    r"not support (?:tools?|functions?|function.calling)"
    r"|(?:tools?|tool.use|function.calling) (?:is|are) not supported"
)
NO_MODEL = r"no models? (?:is )?loaded|unloaded|unknown model|model.{0,40}not found|invalid model|has no `"
NO_MEMORY = r"out of memory|not enough memory|insufficient memory|cuda error|failed to load"
NEXT_STEPS: tuple[tuple[str, str], ...] = (
    (r"--jinja", "start llama-server with --jinja"),
    (r"enable-auto-tool-choice|tool-call-parser", "start vLLM with --enable-auto-tool-choice --tool-call-parser NAME"),
    (NO_TOOLS, f"{ANOTHER_MODEL}, {USE_PLAN}"),
    (
        r"must alternate|system role|role .{0,20}not supported|chat.?template|jinja|raise_exception|template error",
        "its chat template is not compatible: update the model or its template, or choose another: anvyl models",
    ),
    (r"cannot be read|announced a tool call|ran out of room", f"{ANOTHER_MODEL}, {USE_PLAN}"),
    (NO_MEMORY, "it may not fit into memory; choose a smaller one: anvyl models"),
    (
        r"\b(?:terminated|crashed|exited|signal:|killed)",
        "see the model server's log; if memory is short, use a smaller model",
    ),
    (r"stream of events", "turn off forced streaming in the model server, or in the proxy in front of it"),
    (NO_MODEL, "load one: anvyl models"),
    (r"loading model|still loading|is loading", "ask again when the model is loaded"),
    (r"grammar|samplers", "update the model server: it cannot read the tools' schemas"),
    (r"valid key|api.?key|token is required|unauthori[sz]ed", "set ANVYL_LLM_API_KEY to a key that it accepts"),
    (r"into the context|context (?:size|length|window)", "load the model with more context, or ask something narrower"),
    (r"in time|timed out|time-out", "check whether the model server is busy"),
    (r"rate.?limit|too many requests|quota", "ask again later"),
    (r"is not (?:a chat completion|JSON)", "check ANVYL_LMSTUDIO_URL: anvyl doctor"),
)
"""Pattern and hint; the first pattern that matches wins."""
DEFAULT_HINT = "test the model with: anvyl doctor"


def next_step(message: str) -> str:
    """Hint for an error that a model server reported, or for a response that could not be used."""
    return next((step for pattern, step in NEXT_STEPS if re.search(pattern, message, re.IGNORECASE)), DEFAULT_HINT)
