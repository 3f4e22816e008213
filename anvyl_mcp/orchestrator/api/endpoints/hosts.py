"""`/agent/hosts`: which hosts this one knows.

Adding and removing one needs the right `exec`: it changes whom this host trusts and sends its users' words to.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, RootModel

from anvyl_mcp.core.errors import Denied, InvalidInput
from anvyl_mcp.orchestrator.api.endpoint import Visit, endpoint, require_relay
from anvyl_mcp.orchestrator.api.schemas import Document, HostId
from anvyl_mcp.peers.connection.transports import DEFAULT_PORT, is_loopback
from anvyl_mcp.peers.hosts.addresses import url_of
from anvyl_mcp.peers.membership import add_host, remove_host
from anvyl_mcp.peers.watch.health import HostHealth, check_host, check_hosts

Tags = Annotated[list[str], Field(max_length=20, description="groups it belongs to", default_factory=list)]


class Known(BaseModel):
    """One known host: `status` is `ok`, or a word and a reason; `hint` is what to do about it."""

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
    """A host by its address. Elsewhere than on this machine it is `unpaired`, and nothing is sent, without its pin."""

    host_id: HostId
    host_ip: Annotated[str, Field(min_length=1, max_length=253, description="its IP address or name, nothing more")]
    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT
    tags: Tags
    pin: Annotated[str, Field(max_length=200, description="of its key, as `anvyl-mcp invite` there tells")] = ""
    token: Annotated[str, Field(max_length=1000, description="of that host, for us", repr=False)] = ""


class Invited(Document):
    """A host by the code that `anvyl-mcp invite` printed there; `host_id` is what to call it here."""

    invite: Annotated[str, Field(min_length=1, max_length=2000)]
    host_id: Annotated[str, Field(max_length=64)] = ""
    tags: Tags


class Addition(RootModel[NewHost | Invited]):
    """A host to know from now on."""


class Added(Known):
    """The host as it is known now."""

    host_id: str
    scopes: list[str] = []


class Removed(BaseModel):
    """The host that is forgotten; `revoked` tells whether it forgot our token, and `problem` why not."""

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


@endpoint("GET", "/agent/hosts", answers={200: Hosts}, errors=(403,), shows={200: {"hosts": {"nas": NAS}}})
async def hosts(visit: Visit) -> Hosts:
    """List the known hosts, and whether they answer."""
    fleet = visit.here.fleet
    require_relay(visit.asking, fleet.local.name, "ask other hosts how they are")
    found = await check_hosts(fleet, [name for name in fleet.hosts if name != fleet.local.name])
    return Hosts(hosts={host.name: Known(**_known(host, visit)) for host in found})


@endpoint(
    "POST",
    "/agent/hosts",
    takes=Addition,
    answers={201: Added},
    needs="exec",
    errors=(403, 404, 409, 410, 502),
    example={"host_id": "nas", "host_ip": "192.168.1.100"},
    shows={
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
async def add(body: Addition, visit: Visit) -> Added:
    """Know a host from now on: by an invitation, or by its address."""
    fleet, wanted = visit.here.fleet, body.root
    if isinstance(wanted, Invited):
        peer, scopes = await add_host(
            fleet, wanted.invite, "", name=wanted.host_id, tags=tuple(wanted.tags), token="", pin=""
        )
    else:
        url = url_of(wanted.host_ip, wanted.port, secure=bool(wanted.pin))
        if is_loopback(url) and visit.asking.how not in ("local", "loopback"):
            # What is on loopback is trusted without a key.
            raise Denied(
                "only somebody on this machine adds one of its own addresses", hint="run anvyl hosts add there"
            )
        if wanted.token and not wanted.pin and not is_loopback(url):
            raise InvalidInput("a token needs the pin of the host it is sent to", hint="give `pin` too, or an `invite`")
        peer, scopes = await add_host(
            fleet, wanted.host_id, url, name="", tags=tuple(wanted.tags), token=wanted.token, pin=wanted.pin
        )
    found = await check_host(fleet, peer.name)
    return Added(host_id=peer.name, scopes=list(scopes), **_known(found, visit))


@endpoint(
    "DELETE",
    "/agent/hosts/{host_id}",
    answers={200: Removed},
    needs="exec",
    errors=(403, 404),
    shows={200: {"host_id": "nas", "removed": True, "revoked": True, "problem": ""}},
)
async def remove(visit: Visit) -> Removed:
    """Forget a host, and have it forget our token where it can."""
    peer, problem = await remove_host(visit.here.fleet.registry, visit.parameters["host_id"])
    return Removed(host_id=peer.name, revoked=bool(peer.token) and not problem, problem=problem)


def _known(host: HostHealth, visit: Visit) -> dict[str, Any]:
    peer = visit.here.fleet.peers[host.name]
    return {
        "url": host.url,
        "status": host.status if peer.paired else "unpaired",
        "tags": list(host.tags),
        "version": host.version,
        "paired": peer.paired,
        "hint": host.hint,
    }
