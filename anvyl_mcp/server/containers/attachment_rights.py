"""Whether a caller may attach an existing volume or network to a container."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from anvyl_mcp.core.errors import Denied, NotFound
from anvyl_mcp.server.auth.callers import CURRENT_CALLER
from anvyl_mcp.server.containers import root_equivalence
from anvyl_mcp.server.engine import lookup
from anvyl_mcp.server.engine.compat import EngineObject
from anvyl_mcp.server.engine.engine import Engine, own_name
from anvyl_mcp.server.policy import guardrails


def allowed_network(engine: Engine, requested: str) -> str:
    """Name of the network that a new container joins; modes that the engine does not look up are returned unchanged.

    Raises:
        NotFound: there is no such network.
        Denied: it is the host's network, and the caller lacks the right.
    """
    if requested in guardrails.USUAL_NETWORKS or guardrails.is_network_mode(requested):
        return requested
    found = lookup.find_network(engine, requested)
    check_network(found, requested)
    return str(found["Name"])


def check_network(network: EngineObject, requested: str) -> None:
    """Return if the caller may join this network, whatever name or id the call used.

    Raises:
        Denied: it is the host's network, and the caller lacks the right.
    """
    name, driver = str(network["Name"]), str(network.get("Driver") or "")
    if name != requested and (why := guardrails.argument_reasons({"network": name})):
        CURRENT_CALLER.get().require("exec", f"the network `{requested}`, which is `{name}` and {why[0]},")
    if driver == "host":
        CURRENT_CALLER.get().require("exec", f"the network `{requested}`, which is the host's,")


def check_volumes(engine: Engine, binds: Iterable[str]) -> None:
    """Return when the caller may have the named volumes among `binds`.

    Raises:
        Denied: one is a folder of the host under another name, belongs to a container that is out of bounds, or is
            shared with a container that only `exec` could make: what is written there may be run as root.
    """
    for name in dict.fromkeys(bind.partition(":")[0] for bind in binds):
        volume = None if "/" in name else engine.volume(name)
        if volume:
            _check_volume(engine, volume)


def _check_volume(engine: Engine, volume: EngineObject) -> None:
    name, caller = volume["Name"], CURRENT_CALLER.get()
    if _has_custom_driver(volume):
        caller.require("exec", f"the volume `{name}`, which leads to a place of its own,")
    everything = engine.containers(all=True)
    users = [one for one in everything if _mounts(one, volume)]
    for container in users:
        if guardrails.is_protected(container) or guardrails.is_hidden(container):
            raise Denied(
                f"the volume `{name}` belongs to `{own_name(container)}`, whose labels keep others out",
                hint="choose another volume",
            )
    if not caller.may("exec"):
        for user, why in _root_equivalent_users(engine, users, everything):
            caller.require("exec", f"the volume `{name}`, which leads to `{user}`, and that {why},")


def _root_equivalent_users(
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
            yield from (
                (own_name(one), why) for why in root_equivalence.root_reasons(engine, engine.inspect(one["Id"]))
            )
        for volume in filter(None, [engine.volume(name) for name in _volume_names(one)]):
            if _has_custom_driver(volume):
                yield own_name(one), f"uses the volume `{volume['Name']}`, which leads to a place of its own"
            waiting += [other for other in everything if _mounts(other, volume)]


def _has_custom_driver(volume: EngineObject) -> bool:
    return volume.get("Driver") != "local" or bool(volume.get("Options"))


def _volume_names(container: EngineObject) -> list[str]:
    return [str(one["Name"]) for one in container["Mounts"] if one.get("Type") == "volume" and one.get("Name")]


def _mounts(container: EngineObject, volume: EngineObject) -> bool:
    """Whether a listed container mounts a volume, by its name or by its folder on the host."""
    if volume["Name"] in _volume_names(container):
        return True
    folder = str(volume.get("Mountpoint") or "")
    return bool(folder) and any(f"{one.get('Source')}/".startswith(f"{folder}/") for one in container["Mounts"])
