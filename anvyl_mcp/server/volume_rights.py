"""Volumes that are there already: what they lead to, and whose they are, is not in their name."""

from __future__ import annotations

from collections.abc import Iterable

from anvyl_mcp.errors import Denied, NotFound
from anvyl_mcp.server.callers import ACTING
from anvyl_mcp.server.engine import Engine, own_name
from anvyl_mcp.server.guardrails import hidden, protected
from anvyl_mcp.server.translate import engine_errors


def check_volumes(engine: Engine, binds: Iterable[str]) -> None:
    """Return when the caller may have the named volumes among `binds`.

    Raises:
        Denied: one is a folder of the host under another name, or belongs to a container that is out of bounds.
    """
    for bind in binds:
        name = bind.partition(":")[0]
        if "/" not in name:
            _check(engine, name)


def _check(engine: Engine, name: str) -> None:
    try:
        with engine_errors(missing=lambda: NotFound(f"there is no volume `{name}`")):
            found = engine.client().inspect_volume(name)
    except NotFound:
        return
    if found.get("Driver") != "local" or found.get("Options"):
        ACTING.get().require("exec", f"the volume `{name}`, which leads to a place of its own,")
    with engine_errors():
        users = engine.client().containers(all=True, filters={"volume": name})
    for container in users:
        if protected(container) or hidden(container):
            raise Denied(
                f"the volume `{name}` belongs to `{own_name(container)}`, whose labels keep others out",
                hint="choose another volume",
            )
