"""The engine's answers in one shape, whatever its age (20.10 to 29) and make: what it leaves out is filled in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anvyl_mcp.errors import EngineError

NEVER = "0001-01-01T00:00:00Z"


def nonsense() -> EngineError:
    """The error for an answer that no Docker engine gives."""
    return EngineError(
        "the Docker engine answered something that cannot be understood",
        hint="check that DOCKER_HOST leads to a Docker engine, and ask again",
    )


def entries(answer: Any) -> list[dict[str, Any]]:
    """A list of objects; null is an empty one.

    Raises:
        EngineError: it is something else.
    """
    if answer is None:
        return []
    if not isinstance(answer, list) or not all(isinstance(entry, dict) for entry in answer):
        raise nonsense()
    return answer


def fields(answer: Any) -> dict[str, Any]:
    """One object.

    Raises:
        EngineError: it is something else.
    """
    if not isinstance(answer, dict):
        raise nonsense()
    return answer


def listed(answer: Any) -> dict[str, Any]:
    """One entry of `GET /containers/json`."""
    entry = _identified(answer)
    return {
        **entry,
        "Names": entry.get("Names") or [],
        "Image": entry.get("Image") or "",
        "State": entry.get("State") or "",
        "Status": entry.get("Status") or "",
        "Created": entry.get("Created") or 0,
        "Ports": [{"Type": "tcp", "PrivatePort": 0, **port} for port in entries(entry.get("Ports"))],
        "Labels": fields(entry.get("Labels") or {}),
        "Mounts": entries(entry.get("Mounts")),
    }


def inspected(answer: Any) -> dict[str, Any]:
    """`GET /containers/{name}/json`. Since API 1.52 addresses stand only under `Networks`."""
    found = _identified(answer)
    config, network = fields(found.get("Config") or {}), fields(found.get("NetworkSettings") or {})
    state = fields(found.get("State") or {})
    networks = {name: fields(one or {}) for name, one in fields(network.get("Networks") or {}).items()}
    return {
        **found,
        "Name": found.get("Name") or found["Id"][:12],
        "Created": found.get("Created") or NEVER,
        "Config": {
            **config,
            "Image": config.get("Image") or found.get("ImageName") or "",
            "Cmd": _words(config.get("Cmd")),
            "Entrypoint": _words(config.get("Entrypoint")),
            "Env": config.get("Env") or [],
            "Labels": fields(config.get("Labels") or {}),
            "Tty": bool(config.get("Tty")),
        },
        "State": {**state, "Status": state.get("Status") or _status(state), "StartedAt": state.get("StartedAt", "")},
        "HostConfig": fields(found.get("HostConfig") or {}),
        "NetworkSettings": {
            **network,
            "Ports": fields(network.get("Ports") or {}),
            "Networks": {name: {**one, "IPAddress": one.get("IPAddress") or ""} for name, one in networks.items()},
        },
        "Mounts": [{"Destination": "", "Source": "", **mount} for mount in entries(found.get("Mounts"))],
    }


def named(answer: Any) -> dict[str, Any]:
    """A network or a volume."""
    found = fields(answer)
    if not isinstance(found.get("Name"), str):
        raise nonsense()
    return found


def image(answer: Any) -> dict[str, Any]:
    """One entry of `GET /images/json`."""
    entry = _identified(answer)
    containers = entry.get("Containers")
    return {
        **entry,
        "RepoTags": entry.get("RepoTags") or [],
        "RepoDigests": entry.get("RepoDigests") or [],
        "Size": entry.get("Size") or entry.get("VirtualSize") or 0,
        "Created": entry.get("Created") or 0,
        # Engines before API 1.51 say -1: they did not count.
        "Containers": containers if isinstance(containers, int) and containers >= 0 else None,
    }


def info(answer: Any) -> dict[str, Any]:
    """`GET /info`."""
    found = fields(answer)
    numbers = {name: found.get(name) or 0 for name in ("Containers", "ContainersRunning", "Images", "NCPU", "MemTotal")}
    return {**found, **numbers, "Name": found.get("Name") or "", "OperatingSystem": found.get("OperatingSystem") or ""}


def version(answer: Any) -> dict[str, Any]:
    """`GET /version`."""
    found = fields(answer)
    if not found.get("ApiVersion"):
        raise nonsense()
    return {**found, "Version": found.get("Version") or "", "ApiVersion": str(found["ApiVersion"])}


def _identified(answer: Any) -> dict[str, Any]:
    found = fields(answer)
    if not isinstance(found.get("Id"), str):
        raise nonsense()
    return found


def _words(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _status(state: Mapping[str, Any]) -> str:
    return "running" if state.get("Running") else "exited"
