"""The nodes of a Swarm, as one of its managers sees them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, NotFound, Timeout, did_you_mean
from anvyl_mcp.server.engine import compat
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine, ambiguous_id, check_unchanged
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.swarm.membership import manager_errors
from anvyl_mcp.server.tool import Row

Availability = Literal["active", "pause", "drain"]
NodeName = Annotated[str, Field(description="host name or id", min_length=1, json_schema_extra={"x-names": "node"})]
"""A node that must exist."""
CONFLICT = "update out of sequence"
"""What the engine says when an object has changed since it was read."""
ATTEMPTS = 5
DEMOTE_SECONDS = 20


class Node(Row):
    """One node; `tasks` are those that run there now."""

    columns = ("name", "status", "availability", "role", "address", "tasks", "version")

    id: str
    name: str
    status: str
    availability: str
    role: str
    address: str
    tasks: int
    version: str = ""
    message: str = ""


def list_nodes(engine: Engine) -> list[dict[str, Any]]:
    """`GET /nodes`."""
    with manager_errors(engine, "to list the nodes"):
        return compat.parse_list(engine.client().nodes(), compat.swarm_object)


def find_node(engine: Engine, name: str) -> dict[str, Any]:
    """A node by host name, id or unique id prefix.

    Raises:
        NotFound: there is none.
        Conflict: several have that host name.
    """
    known = list_nodes(engine)
    exact = [one for one in known if name in (one["ID"], node_name(one))]
    found = exact or [one for one in known if len(name) >= 4 and one["ID"].startswith(name)]
    if not found:
        names = [node_name(one) for one in known]
        hint = did_you_mean(name, names) or "there are no nodes"
        raise NotFound(f"the Swarm has no node `{object_names.shorten(name)}`", hint=hint)
    if len(found) > 1:
        raise ambiguous_id("node", name, [(node_name(one), one["ID"]) for one in found])
    check_unchanged("node", name, found[0]["ID"])
    return found[0]


def node_name(node: Mapping[str, Any]) -> str:
    """The host name that a node reports; its id if it never reported one."""
    name = compat.string(compat.mapping(node.get("Description")).get("Hostname"))
    return text.one_line(name) or str(node["ID"])[:12]


def node_names(engine: Engine) -> dict[str, str]:
    """The names of all nodes by id."""
    return {one["ID"]: node_name(one) for one in list_nodes(engine)}


def node_row(node: Mapping[str, Any], tasks: int) -> Node:
    """A row for one node."""
    spec, status = compat.mapping(node.get("Spec")), compat.mapping(node.get("Status"))
    manager = compat.mapping(node.get("ManagerStatus"))
    role = compat.string(spec.get("Role"))
    version = compat.mapping(compat.mapping(node.get("Description")).get("Engine")).get("EngineVersion")
    address = compat.string(manager.get("Addr")).rpartition(":")[0] or compat.string(status.get("Addr"))
    return Node(
        id=str(node["ID"])[:12],
        name=node_name(node),
        status=compat.string(status.get("State")) or "unknown",
        availability=compat.string(spec.get("Availability")) or "active",
        role="leader" if manager.get("Leader") is True else role,
        address=address.strip("[]"),
        tasks=tasks,
        version=text.one_line(compat.string(version)),
        message=text.one_line(compat.string(status.get("Message")))[:200],
    )


def set_node(engine: Engine, node_id: str, **values: str) -> dict[str, Any]:
    """Change the `Role` or `Availability` of a node, and return it as it is then.

    Managers update nodes all the time, so a change that another one overtook is made again.
    """
    client = engine.client(CHANGE_TIMEOUT)
    for attempt in range(ATTEMPTS):
        with engine_errors(doing="to inspect the node"):
            node = client.inspect_node(node_id)
        wanted = {**node["Spec"], **values}
        if wanted == node["Spec"]:
            break
        try:
            with engine_errors(doing="to change the node"):
                client.update_node(node_id, node["Version"]["Index"], cast(Any, wanted))
            break
        except AnvylError as error:
            if CONFLICT not in error.message or attempt == ATTEMPTS - 1:
                raise
    return find_by_id(engine, node_id)


def find_by_id(engine: Engine, node_id: str) -> dict[str, Any]:
    """A node by its whole id."""
    with engine_errors(doing="to inspect the node"):
        return compat.require_object(engine.client().inspect_node(node_id))


def demote(engine: Engine, node_id: str) -> None:
    """Make a manager a worker and wait until it is one, so that it can leave without breaking the Swarm.

    Raises:
        Timeout: it did not become one in time.
    """
    node = set_node(engine, node_id, Role="worker")
    deadline = time.monotonic() + DEMOTE_SECONDS
    while node.get("ManagerStatus") and compat.mapping(node.get("Status")).get("State") == "ready":
        if time.monotonic() > deadline:
            raise Timeout(f"{node_name(node)} is still a manager", hint="see `docker node ls` on another manager")
        time.sleep(0.1)  # the engine has no event for it
        node = find_by_id(engine, node_id)


def forget(engine: Engine, node_id: str) -> str:
    """Remove a node from the list, and return its name. It has just left, which managers notice only later."""
    name = node_name(find_by_id(engine, node_id))
    with engine_errors(doing=f"to remove the node {name}"):
        engine.client(CHANGE_TIMEOUT).remove_node(node_id, force=True)
    return name
