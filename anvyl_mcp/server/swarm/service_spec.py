"""Specifications of services: made from the options of a call, changed, and judged for what amounts to root."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Conflict, InvalidInput
from anvyl_mcp.core.redaction.redact_env import redact_environment
from anvyl_mcp.core.values import ports
from anvyl_mcp.server.auth.callers import CURRENT_CALLER
from anvyl_mcp.server.containers.attachment_rights import check_network
from anvyl_mcp.server.containers.create import parse_cpus, parse_memory, parse_pair, parse_volume, split_command
from anvyl_mcp.server.engine import compat, lookup
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.policy import guardrails
from anvyl_mcp.server.swarm.services import container_spec, replicas_of

SECOND = 10**9
AT_ONCE = 10
WATCH_SECONDS = 5
"""How long a new task has to run before the next one is replaced; one that ends sooner makes an update fail."""
HARMLESS_CONTAINER_SETTINGS = frozenset(
    {"Image", "Labels", "Command", "Args", "Hostname", "Env", "Dir", "User", "Groups", "TTY", "OpenStdin"}
    | {"ReadOnly", "StopSignal", "StopGracePeriod", "HealthCheck", "Hosts", "DNSConfig", "Isolation", "Init"}
    | {"Ulimits", "CapabilityDrop", "OomScoreAdj"}
)
"""Settings of a service's containers that do not weaken their isolation."""


def build_spec(
    *,
    image: str,
    name: str,
    replicas: int,
    command: str,
    published: Sequence[str],
    env: Sequence[str],
    volumes: Sequence[str],
    labels: Sequence[str],
    constraints: Sequence[str],
    memory: str,
    cpus: str,
) -> dict[str, Any]:
    """The specification of a new service, which is updated one task at a time and goes back by itself if that fails.

    Raises:
        InvalidInput: an option cannot be parsed.
    """
    container: dict[str, Any] = {"Image": image}
    if words := split_command(command):
        container["Args"] = words
    if env:
        container["Env"] = [parse_pair(one, "env") for one in env]
    if volumes:
        container["Mounts"] = [_mount(parse_volume(one)) for one in volumes]
    template: dict[str, Any] = {"ContainerSpec": container}
    limits = {"MemoryBytes": parse_memory(memory) if memory else 0, "NanoCPUs": parse_cpus(cpus) if cpus else 0}
    if any(limits.values()):
        template["Resources"] = {"Limits": {key: value for key, value in limits.items() if value}}
    if constraints:
        template["Placement"] = {"Constraints": [_constraint(one) for one in constraints]}
    spec: dict[str, Any] = {
        "Name": name,
        "Labels": dict(parse_pair(one, "labels").split("=", 1) for one in labels),
        "TaskTemplate": template,
        "Mode": {"Replicated": {"Replicas": replicas}},
        "UpdateConfig": update_config("rollback", replicas),
        "RollbackConfig": update_config("pause", replicas),
    }
    if published:
        spec["EndpointSpec"] = {"Ports": [_port(one) for one in published]}
    return spec


def update_config(on_failure: str, replicas: int) -> dict[str, Any]:
    """A tenth of the tasks at a time, and what happens when a new one does not stay up."""
    parallel = max(1, replicas // AT_ONCE)
    return {
        "Parallelism": parallel,
        "FailureAction": on_failure,
        "Monitor": WATCH_SECONDS * SECOND,
        "MaxFailureRatio": 0,
    }


def join_network(engine: Engine, spec: dict[str, Any], network: str) -> None:
    """Let the containers of a new service join a network that reaches all nodes.

    Raises:
        NotFound: there is no such network.
        Conflict: it exists on one host only.
        Denied: it is the host's network, and the caller lacks the right.
    """
    if guardrails.is_network_mode(network):
        spec["TaskTemplate"]["Networks"] = [{"Target": network}]
        return
    found = lookup.find_network(engine, network)
    check_network(found, network)
    if found.get("Scope") != "swarm":
        raise Conflict(
            f"the network `{network}` exists on this host only",
            hint="a service needs one on all nodes: create_network with driver=overlay",
        )
    spec["TaskTemplate"]["Networks"] = [{"Target": str(found["Id"])}]


def updated_spec(spec: Mapping[str, Any], *, image: str, env: Sequence[str]) -> dict[str, Any]:
    """A copy with another image and variables; with neither, one that replaces every task by an equal one.

    Raises:
        InvalidInput: a variable cannot be parsed.
    """
    new = copy.deepcopy(dict(spec))
    template = new.setdefault("TaskTemplate", {})
    container = template.setdefault("ContainerSpec", {})
    if image:
        container["Image"] = image
    if env:
        given = dict(parse_pair(one, "env").split("=", 1) for one in env)
        kept = [one for one in compat.strings(container.get("Env")) if one.partition("=")[0] not in given]
        container["Env"] = [*kept, *(f"{name}={value}" for name, value in given.items())]
    template["ForceUpdate"] = (compat.number(template.get("ForceUpdate")) or 0) + 1
    new["UpdateConfig"] = {
        **update_config("rollback", replicas_of(spec) or 1),
        **compat.mapping(new.get("UpdateConfig")),
        "FailureAction": "rollback",
    }
    return new


def require_right(engine: Engine, spec: Mapping[str, Any], name: str) -> None:
    """Return if the caller may decide what this specification runs.

    Raises:
        Denied: what runs in it amounts to root or sees secrets, and the caller lacks the right.
    """
    if not CURRENT_CALLER.get().may("exec"):
        host_networks = {"host", *(str(one["Id"]) for one in lookup.list_networks(engine) if one["Driver"] == "host")}
        for why in root_reasons(spec, host_networks):
            CURRENT_CALLER.get().require("exec", f"the service `{name}`, which {why},")


def root_reasons(spec: Mapping[str, Any], host_networks: Collection[str]) -> Iterator[str]:
    """Why choosing the image of a service amounts to root on its nodes, or shows secrets; each continues "it …"."""
    container = container_spec(spec)
    if not container:
        yield "runs no ordinary containers"
    yield from guardrails.argument_reasons(
        {
            "volumes": [f"{one.get('Source') or '/'}:{one.get('Target')}" for one in _host_mounts(container)],
            "cap_add": compat.strings(container.get("CapabilityAdd")),
        }
    )
    if compat.objects(container.get("Mounts")):
        yield "mounts volumes on any node"
    template = compat.mapping(spec.get("TaskTemplate"))
    joined = [*compat.objects(template.get("Networks")), *compat.objects(spec.get("Networks"))]
    if any(one.get("Target") in host_networks for one in joined):
        yield "shares the host's network"
    for key in ("Secrets", "Configs"):
        if container.get(key):
            yield f"reads {key.lower()} of the Swarm"
    for key, value in container.items():
        if value and key not in {*HARMLESS_CONTAINER_SETTINGS, "Mounts", "CapabilityAdd", "Secrets", "Configs"}:
            yield f"sets `{key}`"
    env = compat.strings(container.get("Env"))
    if redact_environment(env) != env:
        yield "has secrets in its environment"


def _host_mounts(container: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [one for one in compat.objects(container.get("Mounts")) if one.get("Type") not in ("volume", "tmpfs")]


def _mount(volume: str) -> dict[str, Any]:
    source, target, *mode = volume.split(":")
    kind = "bind" if source.startswith(("/", "~", ".")) or "\\" in source else "volume"
    return {"Type": kind, "Source": source, "Target": target, "ReadOnly": "ro" in mode}


def _constraint(typed: str) -> str:
    words = typed.replace("==", " == ").replace("!=", " != ").split()
    if len(words) != 3 or words[1] not in ("==", "!=") or not words[0].startswith(("node.", "engine.labels.")):
        raise InvalidInput(
            f"`{text.one_line(typed)}` is not a constraint",
            hint="write it like node.hostname==nas, node.role!=manager or node.labels.disk==ssd",
        )
    return f"{words[0]}{words[1]}{words[2]}"


def _port(typed: str) -> dict[str, Any]:
    port = ports.parse_port(typed)
    if not isinstance(port, ports.PortMapping):
        raise InvalidInput(f"`{typed}` does not say which port of the containers", hint="write it like 8080:80")
    if port.address:
        raise InvalidInput(
            f"`{typed}` names an address; a service publishes its port on every node", hint="write it like 8080:80"
        )
    return {
        "Protocol": port.protocol,
        "TargetPort": int(port.container_port),
        "PublishedPort": int(port.host_port),
        "PublishMode": "ingress",
    }
