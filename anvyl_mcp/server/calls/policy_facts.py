"""Names, labels and images of objects, read from the engine for the policy's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from anvyl_mcp.core.errors import NotFound
from anvyl_mcp.server.engine import compat, lookup
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.policy.name_forms import ObjectFacts, spellings
from anvyl_mcp.server.policy.rules import ObjectLookup
from anvyl_mcp.server.stacks.projects import find_stack
from anvyl_mcp.server.swarm import nodes, services
from anvyl_mcp.server.tool import BOUND_IDS


def facts_from(engine: Engine) -> ObjectLookup:
    """Return a lookup of objects in this engine; it returns None for an object that does not exist.

    Objects bound to the current call are looked up by id: meanwhile, their name may refer to another object.
    """

    def lookup_object(kind: str, name: str) -> ObjectFacts | None:
        bound_id = BOUND_IDS.get().get((kind, name)) if kind != "volume" else None
        try:
            with engine_errors(missing=lambda: NotFound(f"there is no {kind} `{name}`")):
                return READERS[kind](engine, name, bound_id or name)
        except NotFound:
            return None

    return lookup_object


def _container(engine: Engine, name: str, name_or_id: str) -> ObjectFacts:
    found = compat.container_details(engine.client().inspect_container(name_or_id))
    config = found.get("Config") or {}
    own = str(found["Name"]).lstrip("/")
    return ObjectFacts(own, (own, name, found["Id"], found["Id"][:12]), _labels(config), str(config.get("Image") or ""))


def _image(engine: Engine, name: str, name_or_id: str) -> ObjectFacts:
    found = compat.image(engine.client().inspect_image(name_or_id))  # type: ignore[no-untyped-call]  # the stubs leave it out
    image_id = str(found["Id"])
    tags = [spelled for tag in lookup.image_tags(found) for spelled in spellings("image", tag)]
    ids = (image_id, image_id.removeprefix("sha256:")[:12])
    return ObjectFacts(name, (*spellings("image", name), *tags, *ids), _labels(found, found.get("Config")))


def _network(engine: Engine, name: str, name_or_id: str) -> ObjectFacts:
    found = compat.network_or_volume(engine.client().inspect_network(name_or_id))
    return ObjectFacts(str(found["Name"]), (str(found["Name"]), name, str(found["Id"])), _labels(found))


def _volume(engine: Engine, name: str, name_or_id: str) -> ObjectFacts:
    if (found := engine.volume(name_or_id)) is None:
        raise NotFound(f"there is no volume `{name}`")
    return ObjectFacts(name, (name,), _labels(found))


def _stack(engine: Engine, name: str, _: str) -> ObjectFacts:
    found = find_stack(engine, name)
    return ObjectFacts(name, (name,), _labels(found))


def _service(engine: Engine, name: str, name_or_id: str) -> ObjectFacts:
    found = services.find_service(engine, name_or_id)
    own, image = services.service_name(found), services.image_of(found["Spec"])
    return ObjectFacts(own, (own, name, found["ID"], found["ID"][:12]), services.service_labels(found), image)


def _node(engine: Engine, name: str, name_or_id: str) -> ObjectFacts:
    found = nodes.find_node(engine, name_or_id)
    own = nodes.node_name(found)
    return ObjectFacts(own, (own, name, found["ID"], found["ID"][:12]), _labels(found["Spec"]))


READERS: dict[str, Callable[[Engine, str, str], ObjectFacts]] = {
    "container": _container,
    "image": _image,
    "network": _network,
    "volume": _volume,
    "stack": _stack,
    "service": _service,
    "node": _node,
}
"""Reader by kind of object. Its arguments: the engine, the name in the call, and the name or id to look up."""


def _labels(*holders: Mapping[str, Any] | None) -> dict[str, str]:
    found = [(holder or {}).get("Labels") or {} for holder in holders]
    return {str(name): str(value or "") for labels in found for name, value in labels.items()}
