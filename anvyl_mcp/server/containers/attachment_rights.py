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
    """Return if the caller may mount the named volumes among `binds`.

    Raises:
        Denied: a volume may be a folder of the host, is used by a protected or hidden container, or is shared with a
            root-equivalent container: what the caller writes there may be run as root.
    """
    for name in dict.fromkeys(bind.partition(":")[0] for bind in binds):
        volume = None if "/" in name else engine.volume(name)
        if volume:
            _check_volume(engine, volume)


def _check_volume(engine: Engine, volume: EngineObject) -> None:
    name, caller = volume["Name"], CURRENT_CALLER.get()
    if _has_custom_driver(volume):
        caller.require("exec", f"the volume `{name}`, which has its own driver or options,")
    everything = engine.containers(all=True)
    users = [one for one in everything if _mounts(one, volume)]
    for container in users:
        if guardrails.is_protected(container) or guardrails.is_hidden(container):
            raise Denied(
                f"the volume `{name}` is used by `{own_name(container)}`, whose labels deny access",
                hint="choose another volume",
            )
    if not caller.may("exec"):
        for user, why in _root_equivalent_users(engine, users, everything):
            caller.require("exec", f"the volume `{name}`, shared with `{user}`, which {why},")


def _root_equivalent_users(
    engine: Engine, users: list[dict[str, Any]], everything: list[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    """Root-equivalent containers among the users of a volume, and among the users of their other volumes.

    Yields each container's name and the reason.
    """
    pending, seen = list(users), set[str]()
    while pending:
        one = pending.pop(0)
        if one["Id"] in seen:
            continue
        seen.add(one["Id"])
        with suppress(NotFound):
            yield from (
                (own_name(one), why) for why in root_equivalence.root_reasons(engine, engine.inspect(one["Id"]))
            )
        for volume in filter(None, [engine.volume(name) for name in _volume_names(one)]):
            if _has_custom_driver(volume):
                yield own_name(one), f"uses the volume `{volume['Name']}`, which has its own driver or options"
            pending += [other for other in everything if _mounts(other, volume)]


def _has_custom_driver(volume: EngineObject) -> bool:
    return volume.get("Driver") != "local" or bool(volume.get("Options"))


def _volume_names(container: EngineObject) -> list[str]:
    return [str(one["Name"]) for one in container["Mounts"] if one.get("Type") == "volume" and one.get("Name")]


def _mounts(container: EngineObject, volume: EngineObject) -> bool:
    """Whether a listed container mounts the volume, by name or by its folder on the host."""
    if volume["Name"] in _volume_names(container):
        return True
    folder = str(volume.get("Mountpoint") or "")
    return bool(folder) and any(f"{one.get('Source')}/".startswith(f"{folder}/") for one in container["Mounts"])
