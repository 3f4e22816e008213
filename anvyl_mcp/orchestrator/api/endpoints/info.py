"""`GET /agent/info`: this host, its model and its tools. Does not import the agent."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel

from anvyl_mcp import __version__
from anvyl_mcp.orchestrator.api.endpoint import AgentRequest, endpoint


class Info(BaseModel):
    """This host, its model, and the hosts and tools it knows."""

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
    responses={200: Info},
    response_examples={
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
async def info(request: AgentRequest) -> Info:
    """Get this host's name and model, and the hosts and tools it knows."""
    context, local = request.context, request.context.fleet.local
    address = urlsplit(context.base_url())
    return Info(
        host_id=local.name,
        host_ip=address.hostname or "",
        port=address.port or 0,
        version=__version__,
        model=context.settings.lmstudio_model,
        model_provider_url=context.settings.lmstudio_url,
        mcp_server_url=f"{context.base_url()}/mcp",
        # A caller that may not relay does not see other hosts.
        known_hosts=[name for name in context.fleet.hosts if name != local.name and request.caller.relay],
        tools=list(context.fleet.catalogue),
    )
