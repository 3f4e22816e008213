"""Volumes that are there already: what they lead to, and which containers share them, is not in their name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from anvyl_mcp.core.errors import Denied, NotFound
from anvyl_mcp.server.auth.callers import ACTING
from anvyl_mcp.server.containers import root_equivalence
from anvyl_mcp.server.engine.engine import Engine, own_name
from anvyl_mcp.server.policy.guardrails import hidden, protected

Raw = Mapping[str, Any]


def check_volumes(engine: Engine, binds: Iterable[str]) -> None:
    """Return when the caller may have the named volumes among `binds`.

    Raises:
        Denied: one is a folder of the host under another name, belongs to a container that is out of bounds, or is
            shared with a container that only `exec` could make: what is written there may be run as root.
    """
    for name in dict.fromkeys(bind.partition(":")[0] for bind in binds):
        volume = None if "/" in name else engine.volume(name)
        if volume:
            _check(engine, volume)


def _check(engine: Engine, volume: Raw) -> None:
    name, caller = volume["Name"], ACTING.get()
    if _leads_elsewhere(volume):
        caller.require("exec", f"the volume `{name}`, which leads to a place of its own,")
    everything = engine.containers(all=True)
    users = [one for one in everything if _uses(one, volume)]
    for container in users:
        if protected(container) or hidden(container):
            raise Denied(
                f"the volume `{name}` belongs to `{own_name(container)}`, whose labels keep others out",
                hint="choose another volume",
            )
    if not caller.may("exec"):
        for user, why in _powerful(engine, users, everything):
            caller.require("exec", f"the volume `{name}`, which leads to `{user}`, and that {why},")


def _powerful(
    engine: Engine, users: list[dict[str, Any]], everything: list[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    """The root-equivalent containers that a volume leads to: its users, and who shares another volume with those."""
    waiting, seen = list(users), set[str]()
    while waiting:
        one = waiting.pop(0)
        if one["Id"] in seen:
            continue
        seen.add(one["Id"])
        with suppress(NotFound):
            yield from ((own_name(one), why) for why in root_equivalence.reasons(engine, engine.inspect(one["Id"])))
        for volume in filter(None, [engine.volume(name) for name in _volumes_of(one)]):
            if _leads_elsewhere(volume):
                yield own_name(one), f"uses the volume `{volume['Name']}`, which leads to a place of its own"
            waiting += [other for other in everything if _uses(other, volume)]


def _leads_elsewhere(volume: Raw) -> bool:
    return volume.get("Driver") != "local" or bool(volume.get("Options"))


def _volumes_of(container: Raw) -> list[str]:
    return [str(one["Name"]) for one in container["Mounts"] if one.get("Type") == "volume" and one.get("Name")]


def _uses(container: Raw, volume: Raw) -> bool:
    """Whether a listed container mounts a volume, by its name or by its folder on the host."""
    if volume["Name"] in _volumes_of(container):
        return True
    folder = str(volume.get("Mountpoint") or "")
    return bool(folder) and any(f"{one.get('Source')}/".startswith(f"{folder}/") for one in container["Mounts"])
