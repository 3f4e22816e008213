"""What the engine knows of the objects that a policy's rules are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from anvyl_mcp.core.errors import NotFound
from anvyl_mcp.server.engine import compat, lookup
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.policy.name_forms import ObjectFacts, spellings
from anvyl_mcp.server.policy.rules import ObjectLookup
from anvyl_mcp.server.tool import BOUND_IDS


def facts_from(engine: Engine) -> ObjectLookup:
    """A way to ask this engine what an object is; None for one that is not there.

    An object that the call already has is looked up by its id: its name may belong to another one by now.
    """

    def look(kind: str, name: str) -> ObjectFacts | None:
        held = BOUND_IDS.get().get((kind, name)) if kind != "volume" else None
        try:
            with engine_errors(missing=lambda: NotFound(f"there is no {kind} `{name}`")):
                return READERS[kind](engine, name, held or name)
        except NotFound:
            return None

    return look


def _container(engine: Engine, name: str, wanted: str) -> ObjectFacts:
    found = compat.container_details(engine.client().inspect_container(wanted))
    config = found.get("Config") or {}
    own = str(found["Name"]).lstrip("/")
    return ObjectFacts(own, (own, name, found["Id"], found["Id"][:12]), _labels(config), str(config.get("Image") or ""))


def _image(engine: Engine, name: str, wanted: str) -> ObjectFacts:
    found = compat.image(engine.client().inspect_image(wanted))  # type: ignore[no-untyped-call]  # the stubs leave it out
    number = str(found["Id"])
    tags = [spelled for tag in lookup.image_tags(found) for spelled in spellings("image", tag)]
    ids = (number, number.removeprefix("sha256:")[:12])
    return ObjectFacts(name, (*spellings("image", name), *tags, *ids), _labels(found, found.get("Config")))


def _network(engine: Engine, name: str, wanted: str) -> ObjectFacts:
    found = compat.network_or_volume(engine.client().inspect_network(wanted))
    return ObjectFacts(str(found["Name"]), (str(found["Name"]), name, str(found["Id"])), _labels(found))


def _volume(engine: Engine, name: str, wanted: str) -> ObjectFacts:
    if (found := engine.volume(wanted)) is None:
        raise NotFound(f"there is no volume `{name}`")
    return ObjectFacts(name, (name,), _labels(found))


READERS: dict[str, Callable[[Engine, str, str], ObjectFacts]] = {
    "container": _container,
    "image": _image,
    "network": _network,
    "volume": _volume,
}
"""Kind of object to how it is read: by the name in the call, and by what the engine is asked for."""


def _labels(*holders: Mapping[str, Any] | None) -> dict[str, str]:
    found = [(holder or {}).get("Labels") or {} for holder in holders]
    return {str(name): str(value or "") for labels in found for name, value in labels.items()}
