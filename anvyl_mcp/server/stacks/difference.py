"""What a deployment would change: services added, changed and removed, compared with the containers that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NotFound
from anvyl_mcp.core.redaction.redact_text import redact_text
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.stacks.compose_file import mask_values
from anvyl_mcp.server.stacks.configuration import Configuration
from anvyl_mcp.server.stacks.projects import Project, StackContainer
from anvyl_mcp.server.stacks.stack_rights import port_text
from anvyl_mcp.server.stacks.version_store import StackVersion
from anvyl_mcp.server.tool import Row

Change = Literal["added", "changed", "removed", "started", "unchanged"]
MAX_VALUE = 60
COMPARED = ("image", "command", "entrypoint", "environment", "ports", "volumes", "networks", "restart", "labels")
"""Settings that can be read back from a container; all others are only compared with a stored version."""
UNNAMED_VOLUME = re.compile(r"[0-9a-f]{64}")
NAMES_ONLY = ("environment", "labels")
"""Settings whose values are never shown, because they often are secrets."""


class ServiceChange(Row):
    """What happens to one service."""

    service: str
    change: Change
    details: list[str]


def compare(
    engine: Engine,
    project: Project,
    configuration: Configuration,
    version: StackVersion | None,
    variables: Sequence[str] = (),
) -> list[ServiceChange]:
    """The changes of all services, the unchanged ones last.

    `version`: the stored version that runs, if any; `variables`: of the new one, whose values are not shown.
    """
    hidden = (*variables, *(version.variables if version else ()))
    changes = []
    running = project.services
    for name, service in configuration.services.items():
        if name not in running:
            details = [str(service.get("image") or ""), *_listed(_plain("ports", service.get("ports")), "port ")]
            changes.append(ServiceChange(service=name, change="added", details=[one for one in details if one]))
        else:
            changes.append(_compare_service(engine, name, running[name], configuration, version, hidden))
    for name, containers in running.items():
        if name not in configuration.services:
            changes.append(
                ServiceChange(service=name, change="removed", details=[f"removes {one.name}" for one in containers])
            )
    order = ("removed", "changed", "added", "started", "unchanged")
    return sorted(changes, key=lambda one: (order.index(one.change), one.service))


def _compare_service(
    engine: Engine,
    name: str,
    containers: Sequence[StackContainer],
    configuration: Configuration,
    version: StackVersion | None,
    hidden: Sequence[str],
) -> ServiceChange:
    first, wanted = containers[0], configuration.services[name]
    details = []
    if any(one.config_hash != configuration.hashes.get(name) for one in containers):
        known = version is not None and version.hashes.get(name) == first.config_hash
        before = version.services.get(name, {}) if version and known else read_settings(engine, first)
        keys = sorted({*before, *wanted}) if known else COMPARED
        details = [words for key in keys for words in _describe(key, before.get(key), wanted.get(key))]
        details = [one if one.startswith(("image ", "ports ")) else mask_values(one, hidden) for one in details]
        details = details or ["its settings"]
    count = configuration.replicas(name)
    if count != len(containers):
        details.append(f"{len(containers)} → {text.plural(count, 'container')}")
    image = str(wanted.get("image") or "")
    if not any(one.startswith("image ") for one in details):
        local = engine.image_id(image) if image else ""
        if local and any(one.image_id and one.image_id != local for one in containers):
            details.append(f"image {image} is another one now: {_short(first.image_id)} → {_short(local)}")
    if details:
        return ServiceChange(service=name, change="changed", details=details)
    if not all(one.running for one in containers):
        return ServiceChange(service=name, change="started", details=["is stopped"])
    return ServiceChange(service=name, change="unchanged", details=[])


def read_settings(engine: Engine, container: StackContainer) -> dict[str, Any]:
    """The settings of a container in the form of a Compose file, without those that come from its image."""
    found = engine.inspect(container.id)
    config, host = found["Config"], found["HostConfig"]
    image = _image_config(engine, container.image_id)
    own_environment = [one for one in config["Env"] if one not in (image.get("Env") or ())]
    own_labels = {
        name: value
        for name, value in config["Labels"].items()
        if not name.startswith("com.docker.compose.") and (image.get("Labels") or {}).get(name) != value
    }
    prefix = f"{config['Labels'].get('com.docker.compose.project', '')}_"
    restart = host.get("RestartPolicy") or {}
    return {
        "image": config["Image"],
        "command": config["Cmd"] if config["Cmd"] != (image.get("Cmd") or []) else None,
        "entrypoint": config["Entrypoint"] if config["Entrypoint"] != (image.get("Entrypoint") or []) else None,
        "environment": dict(one.partition("=")[::2] for one in own_environment),
        "ports": [
            {"target": inner.partition("/")[0], "protocol": inner.partition("/")[2], "published": one.get("HostPort")}
            | ({"host_ip": one["HostIp"]} if one.get("HostIp") not in (None, "", "0.0.0.0", "::") else {})
            for inner, bindings in (host.get("PortBindings") or {}).items()
            for one in bindings or ()
        ],
        "volumes": [
            {
                "source": str(one.get("Name") or one.get("Source") or "").removeprefix(prefix),
                "target": one["Destination"],
            }
            for one in found["Mounts"]
            if not UNNAMED_VOLUME.fullmatch(str(one.get("Name") or ""))
        ],
        "networks": {name.removeprefix(prefix): None for name in found["NetworkSettings"]["Networks"]},
        "restart": restart.get("Name") if restart.get("Name") not in (None, "", "no") else None,
        "labels": own_labels,
    }


def _image_config(engine: Engine, image_id: str) -> Mapping[str, Any]:
    with suppress(NotFound), engine_errors(missing=lambda: NotFound("its image is gone")):
        found = engine.client().inspect_image(image_id)  # type: ignore[no-untyped-call]  # the stubs leave it out
        config: Mapping[str, Any] = found.get("Config") or {}
        return config
    return {}


def _describe(key: str, before: Any, after: Any) -> Iterator[str]:
    """The difference of one setting in words; nothing if there is none."""
    old, new = _plain(key, before), _plain(key, after)
    if old == new:
        return
    if key in NAMES_ONLY and isinstance(old, dict) and isinstance(new, dict):
        changed = [f"{name} changed" for name in sorted(old.keys() & new.keys()) if old[name] != new[name]]
        added = [f"{name} added" for name in sorted(new.keys() - old.keys())]
        removed = [f"{name} removed" for name in sorted(old.keys() - new.keys())]
        yield f"{key} {', '.join([*changed, *added, *removed])}"
    elif isinstance(old, list) and isinstance(new, list) and key in ("ports", "volumes", "networks"):
        removed = _listed([one for one in old if one not in new], "-")
        yield f"{key} {' '.join([*removed, *_listed([one for one in new if one not in old], '+')])}"
    else:
        yield f"{key} {_shown(old)} → {_shown(new)}"


def _listed(values: Any, sign: str) -> list[str]:
    return [f"{sign}{text.clean(str(one))}" for one in values or ()]


def _plain(key: str, value: Any) -> Any:
    """A setting in a form in which equal ones compare equal."""
    match key, value:
        case "environment" | "labels", _:
            return {str(name): str(one) for name, one in (value or {}).items() if one is not None}
        case "ports", _:
            return sorted(port_text(one) for one in value or ())
        case "volumes", _:
            mounts = [one for one in value or () if isinstance(one, Mapping) and one.get("type") != "tmpfs"]
            return sorted(f"{one['source']}:{one.get('target')}" for one in mounts if one.get("source"))
        case "networks", _:
            return sorted(value or ())
        case "restart", "no":
            return None
        case _, [] | {} | "":
            return None
    return value


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    words = " ".join(map(str, value)) if isinstance(value, list) else value
    shown = words if isinstance(words, str) else json.dumps(words, sort_keys=True)
    shown = text.one_line(redact_text(shown))
    return shown if len(shown) <= MAX_VALUE else f"{shown[:MAX_VALUE]}…"


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]
