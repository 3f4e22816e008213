"""The form of the journal's file: a header, and lines that each carry a checksum."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

HEADER_BYTES = 64


def header(begun: int) -> bytes:
    """What stands in front of the lines: how many operations began. Always as long, so that it is overwritten."""
    return json.dumps({"anvyl operations": 1, "begun": begun}).ljust(HEADER_BYTES - 1).encode("ascii") + b"\n"


def begun_in(packed: bytes) -> int | None:
    """How many began, as a header says; None when it is damaged."""
    try:
        begun = json.loads(packed)["begun"]
    except (ValueError, TypeError, KeyError):
        return None
    return begun if len(packed) == HEADER_BYTES and type(begun) is int else None


def packed(line: Mapping[str, Any]) -> bytes:
    """One line with its checksum."""
    body = json.dumps(line, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(body), body)


def parse(raw: bytes) -> dict[str, Any] | None:
    """The content of a line that is whole."""
    checksum, _, body = raw.partition(b" ")
    if not raw.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body[:-1]):
        return None
    line: dict[str, Any] = json.loads(body)
    return line
