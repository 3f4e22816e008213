"""Values that look secret do not leave the host."""

from __future__ import annotations

import re
from collections.abc import Iterable

NAMES = re.compile(
    r"pass(word|wd|phrase)?|secret|token|api_?key|private|credential|auth|dsn|salt|cookie|session|signature|(^|_)key$|"
    r"(^|_)pw(d)?$|connection_?string",
    re.IGNORECASE,
)
URL_LOGIN = re.compile(r"""(\w+://[^/\s:@'"]*):[^\s/'"]+@""")
SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|\bgh[pousr]_\w{20,}|\bsk-[\w-]{16,}|\bAKIA[0-9A-Z]{16}\b|"
    r"\beyJ[\w-]{10,}\.[\w-]{10,}\.|\bxox[abprs]-[\w-]{10,}|\banv_\w+"
)
HIDDEN = "<hidden>"


def mask(environment: Iterable[str]) -> list[str]:
    """`NAME=value` entries with the values that look secret, by their name or their shape, hidden."""
    return [_entry(entry) for entry in environment]


def _entry(entry: str) -> str:
    name, separator, value = entry.partition("=")
    if not separator or not value:
        return entry
    if NAMES.search(name) or SHAPES.search(value):
        return f"{name}={HIDDEN}"
    return f"{name}={URL_LOGIN.sub(_without_login, value)}"


def _without_login(match: re.Match[str]) -> str:
    return f"{match[1]}:{HIDDEN}@"
