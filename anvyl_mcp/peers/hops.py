"""Which hosts a question came through: so that an agent never asks one that is asked already.

Two machines may share a name, so a host on a path is its name with an id that its installation keeps: `nas~3f2a…`.
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
    """One host on the way."""

    name: str
    id: str

    def __str__(self) -> str:
        """As it travels."""
        return f"{self.name}~{self.id}"


def installation_id(state_dir: Path) -> str:
    """What tells this installation from every other; made when there is none, and lost where it cannot be kept."""
    file = state_dir / "host-id"
    with suppress(OSError, UnicodeDecodeError):
        if ID.fullmatch(found := file.read_text(encoding="ascii").strip()):
            return found
    made = secrets.token_hex(8)
    with suppress(OSError):
        draft = state_dir / f".host-id-{made}"
        write_atomically(draft, made, durable=False)
        # Of two that start at once the first one wins, for both.
        with suppress(FileExistsError):
            os.link(draft, file)
        draft.unlink()
        return file.read_text(encoding="ascii").strip()
    return made


def parse(header: str) -> tuple[Hop, ...]:
    """The path in a header; nothing when there is none.

    Raises:
        InvalidInput: it is no path.
    """
    stops = []
    for word in header.split(",") if header.strip() else ():
        name, _, id_ = word.strip().partition("~")
        if not HOST_NAME.fullmatch(name) or not ID.fullmatch(id_):
            raise InvalidInput("the path of the question cannot be read", hint="leave X-Anvyl-Path to Anvyl")
        stops.append(Hop(name, id_))
    return tuple(stops)


def append_hop(path: tuple[Hop, ...], here: Hop) -> tuple[Hop, ...]:
    """The path with this host at its end.

    Raises:
        Conflict: this host is on it already, or it grows too long.
    """
    way = " → ".join([*(stop.name for stop in path), here.name])
    if any(stop.id == here.id for stop in path):
        raise Conflict(f"the question went round in a circle: {way}", hint="see anvyl hosts list on each of them")
    if len(path) >= MOST_HOPS:
        raise Conflict(f"the question went through too many hosts: {way}", hint="ask the last one directly")
    return (*path, here)
