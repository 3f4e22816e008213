"""Response metadata: what is sent under `_meta` in addition to the result of a request."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

_collected: ContextVar[dict[str, Any] | None] = ContextVar("response_meta", default=None)


def collect_meta() -> dict[str, Any]:
    """Return a dict that collects the response metadata added by this task and its children."""
    meta: dict[str, Any] = {}
    _collected.set(meta)
    return meta


def add_meta(key: str, value: object) -> None:
    """Add metadata to the response of the current request, if there is one."""
    meta = _collected.get()
    if meta is not None:
        meta[key] = value
