"""The path of hosts that a question was forwarded through, to prevent forwarding loops.

Two machines may have the same name, so a hop is the name with an id of the installation: `nas~3f2a…`.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anvyl_mcp.core.errors import Conflict, InvalidInput
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.core.settings import HOST_NAME

MOST_HOPS = 8
ID = re.compile("[0-9a-f]{16}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Hop:
    """One host on the path."""

    name: str
    id: str

    def __str__(self) -> str:
        """Return its form in the header."""
        return f"{self.name}~{self.id}"


def installation_id(state_dir: Path) -> str:
    """Return the random id of this installation. It is created on first use; if it cannot be saved, it is temporary."""
    file = state_dir / "host-id"
    with suppress(OSError, UnicodeDecodeError):
        if ID.fullmatch(found := file.read_text(encoding="ascii").strip()):
            return found
    made = secrets.token_hex(8)
    with suppress(OSError):
        draft = state_dir / f".host-id-{made}"
        write_atomically(draft, made, durable=False)
        # If two processes start at once, both use the id of the first.
        with suppress(FileExistsError):
            os.link(draft, file)
        draft.unlink()
        return file.read_text(encoding="ascii").strip()
    return made


def parse(header: str) -> tuple[Hop, ...]:
    """Parse the path header; empty if the header is.

    Raises:
        InvalidInput: the header is malformed.
    """
    stops = []
    for word in header.split(",") if header.strip() else ():
        name, _, id_ = word.strip().partition("~")
        if not HOST_NAME.fullmatch(name) or not ID.fullmatch(id_):
            raise InvalidInput("the X-Anvyl-Path header is malformed", hint="only Anvyl sets this header; leave it out")
        stops.append(Hop(name, id_))
    return tuple(stops)


def append_hop(path: tuple[Hop, ...], here: Hop) -> tuple[Hop, ...]:
    """Append this host to the path.

    Raises:
        Conflict: this host is on the path already, or the path gets too long.
    """
    way = " → ".join([*(stop.name for stop in path), here.name])
    if any(stop.id == here.id for stop in path):
        raise Conflict(f"the question was forwarded in a loop: {way}", hint="check anvyl hosts list on each of them")
    if len(path) >= MOST_HOPS:
        raise Conflict(f"the question was forwarded too often: {way}", hint="ask the last host directly")
    return (*path, here)
