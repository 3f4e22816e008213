"""What is told beside an answer, under its `_meta`."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

_collected: ContextVar[dict[str, Any] | None] = ContextVar("beside", default=None)


def collect_meta() -> dict[str, Any]:
    """Begin an answer; what is told from now on in this task, and in those it starts, comes into the returned."""
    told: dict[str, Any] = {}
    _collected.set(told)
    return told


def add_meta(key: str, value: object) -> None:
    """Tell something beside the answer of the request that is being answered, if one is."""
    told = _collected.get()
    if told is not None:
        told[key] = value
