"""The status words for a call on a host, the same in every interface."""

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
"""The first matching class decides; any other error is the answer of a healthy host."""


def host_status(error: AnvylError | None) -> StatusWord:
    """Return the status of a host that answered with `error`, or with none."""
    return next((word for kind, word in _STATUS_OF.items() if isinstance(error, kind)), "ok")


def call_status(error: AnvylError | None) -> StatusWord:
    """Return the status of one call: that of the host, or `failed` if a healthy host could not do it."""
    return "failed" if error is not None and host_status(error) == "ok" else host_status(error)


def status_text(error: AnvylError | None, word: StatusWord | None = None) -> str:
    """Return `ok`, or a word and the reason: `timeout: no answer within 5 s`. `refused` is shown as unreachable."""
    word = word or host_status(error)
    if error is None or word == "ok":
        return "ok"
    return f"{'unreachable' if word == 'refused' else word}: {error.message}"
