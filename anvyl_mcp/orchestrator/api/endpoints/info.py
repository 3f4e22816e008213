"""`GET /agent/info`: what this node is; light enough for a server that never answers a question."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel

from anvyl_mcp import __version__
from anvyl_mcp.orchestrator.api.endpoint import Visit, endpoint


class Info(BaseModel):
    """This node."""

    host_id: str
    host_ip: str
    port: int
    version: str
    model: str
    model_provider_url: str
    mcp_server_url: str
    known_hosts: list[str]
    tools: list[str]
    status: Literal["running"] = "running"


@endpoint(
    "GET",
    "/agent/info",
    answers={200: Info},
    shows={
        200: {
            "host_id": "nas",
            "host_ip": "127.0.0.1",
            "port": 4200,
            "version": "0.1.0",
            "model": "default",
            "model_provider_url": "http://localhost:1234/v1",
            "mcp_server_url": "http://127.0.0.1:4200/mcp",
            "known_hosts": ["gpu"],
            "tools": ["list_containers", "stop_container"],
            "status": "running",
        }
    },
)
async def info(visit: Visit) -> Info:
    """Say what this node is called, which model it asks, and which hosts and tools it knows."""
    here = visit.here
    address = urlsplit(here.base_url())
    return Info(
        host_id=here.fleet.local.name,
        host_ip=address.hostname or "",
        port=address.port or 0,
        version=__version__,
        model=here.settings.lmstudio_model,
        model_provider_url=here.settings.lmstudio_url,
        mcp_server_url=f"{here.base_url()}/mcp",
        # A token without the relay mark does not reveal other hosts.
        known_hosts=[name for name in here.fleet.hosts if name != here.fleet.local.name and visit.asking.relay],
        tools=list(here.fleet.catalogue),
    )
