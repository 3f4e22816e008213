"""The steps of forming a Swarm, for `anvyl swarm` only: they are in no listing, so that no model ever sees them.

Each needs `exec`. A join token leaves its manager only encrypted to the key of the host that joins: see `join_secret`.
"""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import Field

from anvyl_mcp.core.errors import AnvylError, Conflict
from anvyl_mcp.core.redaction.redact_text import redact_text
from anvyl_mcp.server.engine import compat
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.swarm import join_secret, nodes
from anvyl_mcp.server.swarm.join_secret import JoinKeys, JoinSecret
from anvyl_mcp.server.swarm.membership import TOOLSET, SwarmPart, SwarmWatch, read_part, require_manager
from anvyl_mcp.server.tool import Result, tool

PORTS = "2377/tcp, 7946/tcp and udp, and 4789/udp"
ROLES = {"manager": "Manager", "worker": "Worker"}
JOIN_SECONDS = 60
DEMOTION_SECONDS = 20
"""How long a manager may take to notice that it was made a worker."""


class Membership(Result):
    """This host's part in a Swarm."""

    part: SwarmPart


class Announcement(Result):
    """The public key to which a join token for this host is encrypted."""

    key: str


class SealedToken(Result):
    """A join token that only the host with the key can read."""

    sealed: str


class Forgotten(Result):
    """A node that is not in the list any more, or not a manager any more."""

    name: str


@tool(scope="exec", toolset=TOOLSET, changes=True, hidden=True, seconds=60)
def init_swarm(
    address: Annotated[str, Field(description="where other hosts reach this one")],
    engine: Engine,
    watch: SwarmWatch,
) -> Membership:
    """Make this host the first manager of a new Swarm."""
    _require_none(engine)
    with engine_errors(doing="to start a Swarm"):
        engine.client(CHANGE_TIMEOUT).init_swarm(advertise_addr=address)
    watch.forget()
    return Membership(part=read_part(engine))


def _require_none(engine: Engine) -> None:
    part = read_part(engine)
    if part.state != "inactive":
        raise Conflict(f"it is in a Swarm already, as {part.role or part.state}", hint="see `anvyl swarm status`")


@tool(scope="exec", toolset=TOOLSET, changes=True, hidden=True)
def announce_swarm_join(engine: Engine, keys: JoinKeys) -> Announcement:
    """Prepare to join: make a key for one join token."""
    _require_none(engine)
    return Announcement(key=keys.announce())


@tool(scope="exec", toolset=TOOLSET, changes=True, hidden=True)
def share_swarm_token(
    key: Annotated[str, Field(description="of the host that joins")],
    role: Annotated[str, Field(description="manager or worker")],
    engine: Engine,
) -> SealedToken:
    """Encrypt the join token of a role for one host."""
    require_manager(engine)
    if role not in ROLES:
        raise Conflict(f"`{role}` is not a role", hint="manager or worker")
    with engine_errors(doing="to read the join token"):
        client = engine.client()
        token = str(client.inspect_swarm()["JoinTokens"][ROLES[role]])
        remote = compat.objects(compat.mapping(client.info().get("Swarm")).get("RemoteManagers"))
    managers = tuple(compat.string(one.get("Addr")) for one in remote)
    return SealedToken(sealed=join_secret.seal(JoinSecret(token, managers), key))


@tool(scope="exec", toolset=TOOLSET, changes=True, hidden=True, seconds=JOIN_SECONDS + 10)
def join_swarm(
    key: Annotated[str, Field(description="as announced")],
    sealed_token: Annotated[str, Field(description="for that key")],
    address: Annotated[str, Field(description="of the manager, as this host reaches it")],
    engine: Engine,
    keys: JoinKeys,
    watch: SwarmWatch,
) -> Membership:
    """Join a Swarm with an encrypted token."""
    secret = keys.open(key, sealed_token)
    managers = list(dict.fromkeys([address, *secret.managers]))
    try:
        with engine_errors(doing="to join the Swarm"):
            engine.client(JOIN_SECONDS).join_swarm(managers, secret.token)
    except AnvylError as error:
        # Nothing that the engine says may carry the token on.
        message = redact_text(error.message.replace(secret.token, "…"))
        part = read_part(engine)
        if part.state == "active":
            return Membership(part=part)
        raise type(error)(message, hint=f"between the hosts open {PORTS}; see `journalctl -u docker`") from None
    finally:
        watch.forget()
    return Membership(part=read_part(engine))


@tool(scope="exec", toolset=TOOLSET, destroys=True, hidden=True, seconds=60)
def leave_swarm(engine: Engine, watch: SwarmWatch, force: bool = False) -> Membership:
    """Leave the Swarm; the last manager ends it, with all its services."""
    deadline = time.monotonic() + DEMOTION_SECONDS
    while not force and read_part(engine).manages and time.monotonic() < deadline:
        time.sleep(0.2)  # the engine has no event for it
    with engine_errors(doing="to leave the Swarm"):
        engine.client(CHANGE_TIMEOUT).leave_swarm(force=force)
    watch.forget()
    return Membership(part=read_part(engine))


@tool(scope="exec", toolset=TOOLSET, destroys=True, hidden=True)
def forget_swarm_node(node: str, engine: Engine) -> Forgotten:
    """Remove a node that has left from the list."""
    require_manager(engine)
    return Forgotten(name=nodes.forget(engine, node))


@tool(scope="exec", toolset=TOOLSET, destroys=True, hidden=True, seconds=60)
def demote_swarm_node(node: str, engine: Engine) -> Forgotten:
    """Make a manager a worker, so that it can leave."""
    require_manager(engine)
    nodes.demote(engine, node)
    return Forgotten(name=nodes.node_name(nodes.find_by_id(engine, node)))
