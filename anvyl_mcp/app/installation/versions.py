"""The versions of everything that matters in a report of a problem: Anvyl, Python, libraries, engine, system."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from anvyl_mcp import __version__
from anvyl_mcp.core import serve_lock
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.core.settings import load

LIBRARIES = {"MCP SDK": "mcp", "Docker SDK": "docker", "Pydantic AI": "pydantic-ai-slim", "OpenAI SDK": "openai"}
"""Name and package of each library that decides how Anvyl behaves."""


def describe_versions() -> list[tuple[str, str]]:
    """Return names and versions, in the order to print them. Nothing here is secret."""
    return [
        ("Anvyl", __version__),
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        *((name, _library(package)) for name, package in LIBRARIES.items()),
        ("engine", _engine()),
        ("server", _server()),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
    ]


def _library(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _engine() -> str:
    """The engine of this host and its API version, or why there is none."""
    from anvyl_mcp.server.engine.engine import Engine

    engine = Engine()
    try:
        found = engine.version()
        product = "Podman" if engine.is_podman else "Docker"
        return f"{product} {found['Version']}, API {found['ApiVersion']} ({engine.endpoint.url})"
    except AnvylError as error:
        return error.message
    finally:
        engine.close()


def _server() -> str:
    """The server of this installation that runs now."""
    try:
        server = serve_lock.find_server(load().run_dir)
    except AnvylError as error:
        return error.message
    return f"{server.version}, process {server.pid}" if server else "none is running"
