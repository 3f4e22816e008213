"""The closed list of words for how a call on a host ended, the same in every face."""

from __future__ import annotations

from typing import Literal, get_args

from anvyl_mcp.core.errors import (
    AnvylError,
    Busy,
    Cancelled,
    Denied,
    EngineError,
    InternalError,
    Refused,
    Timeout,
    Unknown,
    UnknownHost,
    Unreachable,
)

StatusWord = Literal[
    "ok", "unreachable", "timeout", "refused", "denied", "busy", "engine_error", "unknown", "cancelled", "failed"
]
STATUS_WORDS: tuple[StatusWord, ...] = get_args(StatusWord)

_STATUS_OF: dict[type[AnvylError], StatusWord] = {
    Refused: "refused",
    Unreachable: "unreachable",
    UnknownHost: "unreachable",
    Timeout: "timeout",
    Denied: "denied",
    Busy: "busy",
    EngineError: "engine_error",
    Unknown: "unknown",
    InternalError: "unknown",
    Cancelled: "cancelled",
}
"""The first class that fits; any other error is an answer that a healthy host gave."""


def host_status(error: AnvylError | None) -> StatusWord:
    """How a host did that answered with `error`, or with none."""
    return next((word for kind, word in _STATUS_OF.items() if isinstance(error, kind)), "ok")


def call_status(error: AnvylError | None) -> StatusWord:
    """How one call ended: as `word`, but a healthy host that could not do it has `failed`."""
    return "failed" if error is not None and host_status(error) == "ok" else host_status(error)


def status_text(error: AnvylError | None, said: StatusWord | None = None) -> str:
    """`ok`, or a word and the reason: `timeout: no answer within 5 s`. Who refuses is unreachable, and says why."""
    said = said or host_status(error)
    if error is None or said == "ok":
        return "ok"
    return f"{'unreachable' if said == 'refused' else said}: {error.message}"
