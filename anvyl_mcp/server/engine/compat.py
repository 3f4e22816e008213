"""Normalize responses of Docker 20.10 to 29 and Podman to one shape.

Fields that an engine omits or fills with null, -1 or another type get defaults here, so that no reader has to check
them. List entries are parsed one by one: a malformed entry loses only its own row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from anvyl_mcp.core.errors import EngineError

Entry = TypeVar("Entry")
EngineObject = Mapping[str, Any]
"""An object of the engine's API, as decoded from JSON."""

NEVER = "0001-01-01T00:00:00Z"
PARSE_ERRORS = (EngineError, TypeError, ValueError, KeyError, AttributeError, OverflowError)
"""Errors that parsing a malformed entry can raise."""


def unreadable_answer() -> EngineError:
    """The error for a response that is not a Docker engine's."""
    return EngineError(
        "the Docker engine sent a response that cannot be parsed",
        hint="check that DOCKER_HOST points to a Docker engine, and try again",
    )


def parse_list(answer: Any, parse: Callable[[dict[str, Any]], Entry]) -> list[Entry]:
    """Parse every entry of a list and skip those that cannot be parsed; null is an empty list.

    Raises:
        EngineError: the answer is not a list, or none of its entries can be parsed.
    """
    if not isinstance(answer, list | None):
        raise unreadable_answer()
    found = []
    for entry in answer or ():
        with suppress(*PARSE_ERRORS):
            found.append(parse(require_object(entry)))
    if answer and not found:
        raise unreadable_answer()
    return found


def require_object(answer: Any) -> dict[str, Any]:
    """The value if it is a JSON object.

    Raises:
        EngineError: it is not.
    """
    if not isinstance(answer, dict):
        raise unreadable_answer()
    return answer


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is an object, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; empty if the value is not a list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def string(value: Any) -> str:
    """The value if it is a string, otherwise an empty one."""
    return value if isinstance(value, str) else ""


def strings(value: Any) -> list[str]:
    """The strings in a list; a single string becomes a list."""
    found = [value] if isinstance(value, str) else value
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def number(value: Any) -> int | None:
    """A non-negative integer, also from digits; None if unknown, which engines write as null or -1."""
    try:
        found = int(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1
    except (ValueError, OverflowError):
        return None
    return found if 0 <= found < 2**63 else None


def labels(value: Any) -> dict[str, str]:
    """Labels by name, also from a list of `name=value`.

    Raises:
        EngineError: they cannot be parsed; ignoring them would allow what they forbid.
    """
    if isinstance(value, list):
        return {name: rest for name, _, rest in (one.partition("=") for one in strings(value))}
    return {str(name): "" if one is None else str(one) for name, one in require_object(value or {}).items()}


def container_entry(answer: Any) -> dict[str, Any]:
    """One entry of `GET /containers/json`."""
    entry = require_id(answer)
    return {
        **entry,
        "Names": strings(entry.get("Names")),
        "Image": string(entry.get("Image")),
        "State": string(entry.get("State")).lower(),
        "Status": string(entry.get("Status")),
        "Created": entry.get("Created"),
        "Ports": [_port(port) for port in objects(entry.get("Ports"))],
        "Labels": labels(entry.get("Labels")),
        "Mounts": objects(entry.get("Mounts")),
        "NetworkSettings": {"Networks": mapping(mapping(entry.get("NetworkSettings")).get("Networks"))},
    }


def container_details(answer: Any) -> dict[str, Any]:
    """`GET /containers/{name}/json`. Since API 1.52 IP addresses are only under `Networks`."""
    found = require_id(answer)
    config, network, host = (mapping(found.get(part)) for part in ("Config", "NetworkSettings", "HostConfig"))
    networks = {name: mapping(one) for name, one in mapping(network.get("Networks")).items()}
    return {
        **found,
        "Name": string(found.get("Name")) or found["Id"][:12],
        "Created": string(found.get("Created")) or NEVER,
        "RestartCount": number(found.get("RestartCount")) or 0,
        "Config": {
            **config,
            "Image": string(config.get("Image")) or string(found.get("ImageName")),
            "Cmd": strings(config.get("Cmd")),
            "Entrypoint": strings(config.get("Entrypoint")),
            "Env": strings(config.get("Env")),
            "Labels": labels(config.get("Labels")),
            "Tty": bool(config.get("Tty")),
        },
        "State": _state(mapping(found.get("State"))),
        "HostConfig": {
            **host,
            "RestartPolicy": mapping(host.get("RestartPolicy")),
            "LogConfig": mapping(host.get("LogConfig")),
        },
        "NetworkSettings": {
            **network,
            "Ports": {name: objects(bound) for name, bound in mapping(network.get("Ports")).items()},
            "Networks": {name: {**one, "IPAddress": string(one.get("IPAddress"))} for name, one in networks.items()},
        },
        "Mounts": [
            {**mount, "Destination": string(mount.get("Destination")), "Source": string(mount.get("Source"))}
            for mount in objects(found.get("Mounts"))
        ],
    }


def network_or_volume(answer: Any) -> dict[str, Any]:
    """A network or a volume."""
    found = require_object(answer)
    if not isinstance(found.get("Name"), str):
        raise unreadable_answer()
    return {
        **found,
        "Driver": string(found.get("Driver")),
        "Mountpoint": string(found.get("Mountpoint")),
        "Labels": labels(found.get("Labels")),
        "IPAM": {**mapping(found.get("IPAM")), "Config": objects(mapping(found.get("IPAM")).get("Config"))},
        "Containers": {
            name: {**mapping(one), "Name": string(mapping(one).get("Name")) or name[:12]}
            for name, one in mapping(found.get("Containers")).items()
        },
    }


def image(answer: Any) -> dict[str, Any]:
    """One entry of `GET /images/json`."""
    entry = require_id(answer)
    size = number(entry.get("Size"))
    return {
        **entry,
        "RepoTags": strings(entry.get("RepoTags")),
        "RepoDigests": strings(entry.get("RepoDigests")),
        "Size": number(entry.get("VirtualSize")) if size is None else size,
        "Created": entry.get("Created"),
        "Labels": labels(entry.get("Labels")),
        # Engines before API 1.51 return -1.
        "Containers": number(entry.get("Containers")),
    }


def info(answer: Any) -> dict[str, Any]:
    """`GET /info`."""
    found = require_object(answer)
    counts = ("Containers", "ContainersRunning", "Images", "NCPU", "MemTotal")
    texts = ("Name", "OperatingSystem")
    return {
        **found,
        **{name: number(found.get(name)) or 0 for name in counts},
        **{name: string(found.get(name)) for name in texts},
    }


def version(answer: Any) -> dict[str, Any]:
    """`GET /version`."""
    found = require_object(answer)
    if not found.get("ApiVersion"):
        raise unreadable_answer()
    components = objects(found.get("Components"))
    return {
        **found,
        "Version": string(found.get("Version")),
        "ApiVersion": str(found["ApiVersion"]),
        "Components": components,
    }


def require_id(answer: Any) -> dict[str, Any]:
    """The value if it is an object with an id.

    Raises:
        EngineError: it is not.
    """
    found = require_object(answer)
    if not isinstance(found.get("Id"), str):
        raise unreadable_answer()
    return found


def swarm_object(answer: Any) -> dict[str, Any]:
    """A node, service or task of a Swarm, whose id is spelled `ID`.

    Raises:
        EngineError: it is none.
    """
    found = require_object(answer)
    if not isinstance(found.get("ID"), str) or not isinstance(found.get("Spec"), dict):
        raise unreadable_answer()
    return found


def _port(port: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Type": string(port.get("Type")) or "tcp",
        "PrivatePort": number(port.get("PrivatePort")) or 0,
        "PublicPort": number(port.get("PublicPort")),
        "IP": string(port.get("IP")),
    }


def _state(state: Mapping[str, Any]) -> dict[str, Any]:
    health = mapping(state.get("Health"))
    return {
        **state,
        "Status": string(state.get("Status")).lower() or ("running" if state.get("Running") else "exited"),
        "Error": string(state.get("Error")),
        "StartedAt": string(state.get("StartedAt")),
        "FinishedAt": string(state.get("FinishedAt")),
        "ExitCode": code if isinstance(code := state.get("ExitCode"), int) else 0,
        "Health": {**health, "Status": string(health.get("Status")), "Log": objects(health.get("Log"))},
    }
