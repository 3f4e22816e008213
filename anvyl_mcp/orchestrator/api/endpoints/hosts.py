"""`/agent/hosts`: list, add and remove known hosts.

Adding and removing needs the scope `exec`, because it changes which hosts this one trusts and sends questions to.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, RootModel

from anvyl_mcp.core.errors import Denied, InvalidInput
from anvyl_mcp.orchestrator.api.endpoint import AgentRequest, endpoint, require_relay
from anvyl_mcp.orchestrator.api.schemas import Document, HostId
from anvyl_mcp.peers.connection.transports import DEFAULT_PORT, is_loopback
from anvyl_mcp.peers.hosts.addresses import url_of
from anvyl_mcp.peers.membership import add_host, remove_host
from anvyl_mcp.peers.watch.health import HostHealth, check_host, check_hosts

Tags = Annotated[list[str], Field(max_length=20, description="groups that the host belongs to", default_factory=list)]


class Known(BaseModel):
    """One known host. `status` is `ok`, or a word and a reason; `hint` is how to solve it."""

    url: str
    status: str
    tags: list[str]
    version: str = ""
    paired: bool
    hint: str = ""


class Hosts(BaseModel):
    """The known hosts by name."""

    hosts: dict[str, Known]


class NewHost(Document):
    """A host by its address. Without a pin, a host on another machine is `unpaired`, and nothing is sent to it."""

    host_id: HostId
    host_ip: Annotated[str, Field(min_length=1, max_length=253, description="IP address or host name")]
    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT
    tags: Tags
    pin: Annotated[str, Field(max_length=200, description="pin of its key, as printed by `anvyl-mcp invite`")] = ""
    token: Annotated[str, Field(max_length=1000, description="token for calls to that host", repr=False)] = ""


class Invited(Document):
    """A host by a code from `anvyl-mcp invite` on that host; `host_id` overrides its name."""

    invite: Annotated[str, Field(min_length=1, max_length=2000)]
    host_id: Annotated[str, Field(max_length=64)] = ""
    tags: Tags


class Addition(RootModel[NewHost | Invited]):
    """A host to add."""


class Added(Known):
    """The added host."""

    host_id: str
    scopes: list[str] = []


class Removed(BaseModel):
    """The removed host. `revoked`: whether it revoked our token; `problem`: why it did not."""

    host_id: str
    removed: bool = True
    revoked: bool = False
    problem: str = ""


NAS = {
    "url": "https://192.168.1.100:4200",
    "status": "ok",
    "tags": ["home"],
    "version": "0.1.0",
    "paired": True,
    "hint": "",
}


@endpoint(
    "GET", "/agent/hosts", responses={200: Hosts}, errors=(403,), response_examples={200: {"hosts": {"nas": NAS}}}
)
async def hosts(request: AgentRequest) -> Hosts:
    """List the known hosts and their status."""
    fleet = request.context.fleet
    require_relay(request.caller, fleet.local.name, "check other hosts")
    found = await check_hosts(fleet, [name for name in fleet.hosts if name != fleet.local.name])
    return Hosts(hosts={host.name: Known(**_known(host, request)) for host in found})


@endpoint(
    "POST",
    "/agent/hosts",
    body=Addition,
    responses={201: Added},
    scope="exec",
    errors=(403, 404, 409, 410, 502),
    example={"host_id": "nas", "host_ip": "192.168.1.100"},
    response_examples={
        201: {
            **NAS,
            "host_id": "nas",
            "url": "http://192.168.1.100:4200",
            "status": "unpaired",
            "paired": False,
            "hint": "pair with it: run `anvyl-mcp invite` on nas, then `anvyl hosts add` here",
            "scopes": [],
        }
    },
)
async def add(body: Addition, request: AgentRequest) -> Added:
    """Add a host, by an invitation or by its address."""
    fleet, new = request.context.fleet, body.root
    if isinstance(new, Invited):
        peer, scopes = await add_host(fleet, new.invite, "", name=new.host_id, tags=tuple(new.tags), token="", pin="")
    else:
        url = url_of(new.host_ip, new.port, secure=bool(new.pin))
        if is_loopback(url) and request.caller.how not in ("local", "loopback"):
            # Servers on loopback are trusted without a key.
            raise Denied(
                "a loopback address can only be added from the machine itself",
                hint="run `anvyl hosts add` on that machine",
            )
        if new.token and not new.pin and not is_loopback(url):
            raise InvalidInput(
                "a token can only be sent to a host whose pin is known", hint="add `pin`, or use an `invite`"
            )
        peer, scopes = await add_host(
            fleet, new.host_id, url, name="", tags=tuple(new.tags), token=new.token, pin=new.pin
        )
    found = await check_host(fleet, peer.name)
    return Added(host_id=peer.name, scopes=list(scopes), **_known(found, request))


@endpoint(
    "DELETE",
    "/agent/hosts/{host_id}",
    responses={200: Removed},
    scope="exec",
    errors=(403, 404),
    response_examples={200: {"host_id": "nas", "removed": True, "revoked": True, "problem": ""}},
)
async def remove(request: AgentRequest) -> Removed:
    """Remove a host, and revoke our token there if it can be reached."""
    peer, problem = await remove_host(request.context.fleet.registry, request.parameters["host_id"])
    return Removed(host_id=peer.name, revoked=bool(peer.token) and not problem, problem=problem)


def _known(host: HostHealth, request: AgentRequest) -> dict[str, Any]:
    peer = request.context.fleet.peers[host.name]
    return {
        "url": host.url,
        "status": host.status if peer.paired else "unpaired",
        "tags": list(host.tags),
        "version": host.version,
        "paired": peer.paired,
        "hint": host.hint,
    }
