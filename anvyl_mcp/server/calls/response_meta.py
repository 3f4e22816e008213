"""What is told beside an answer, under its `_meta`."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

BESIDE: ContextVar[dict[str, Any] | None] = ContextVar("beside", default=None)


def beginning() -> dict[str, Any]:
    """Begin an answer; what is told from now on in this task, and in those it starts, comes into the returned."""
    told: dict[str, Any] = {}
    BESIDE.set(told)
    return told


def tell(key: str, value: object) -> None:
    """Tell something beside the answer of the request that is being answered, if one is."""
    told = BESIDE.get()
    if told is not None:
        told[key] = value
