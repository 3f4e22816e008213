"""`GET /agent/info`: what this node is; light enough for a server that never answers a question."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from anvyl_mcp import __version__
from anvyl_mcp.peers.fleet import Fleet
from anvyl_mcp.settings import Settings


def info(fleet: Fleet, settings: Settings, base_url: Callable[[], str]) -> Callable[[Request], Awaitable[Response]]:
    """The handler; `base_url` tells where this node is served."""

    async def handler(_: Request) -> Response:
        address = urlsplit(base_url())
        return JSONResponse(
            {
                "host_id": fleet.local.name,
                "host_ip": address.hostname,
                "port": address.port,
                "version": __version__,
                "model": settings.lmstudio_model,
                "model_provider_url": settings.lmstudio_url,
                "mcp_server_url": f"{base_url()}/mcp",
                "known_hosts": [name for name in fleet.hosts if name != fleet.local.name],
                "tools": list(fleet.catalogue),
                "status": "running",
            }
        )

    return handler
