"""What a caller needs to deploy a stack: which of its settings amount to root, and what labels and policy forbid.

Every setting that is not listed here as harmless or as guarded needs the scope `exec`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core.errors import NotFound
from anvyl_mcp.core.redaction.redact_env import redact_environment
from anvyl_mcp.server.auth.callers import CURRENT_CALLER
from anvyl_mcp.server.containers.attachment_rights import allowed_network, check_volumes
from anvyl_mcp.server.containers.root_equivalence import USUAL_LOG_DRIVERS
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.policy import guardrails
from anvyl_mcp.server.stacks.configuration import Configuration, Service
from anvyl_mcp.server.tool import Tool

PolicyCheck = Callable[[Tool, Mapping[str, Any]], None]
"""Raises `Denied` if the policy does not allow the caller to call a tool with these arguments."""

MAX_CHECKED_REPLICAS = 20
GUARDED = (
    *("privileged", "pid", "ipc", "uts", "userns_mode", "network_mode", "volumes_from", "cap_add", "devices"),
    *("device_cgroup_rules", "security_opt", "runtime", "isolation", "cgroup_parent", "gpus"),
)
"""Settings that a guardrail judges by their value, under the same name."""
HARMLESS = frozenset(
    {"attach", "cap_drop", "command", "configs", "container_name", "cpu_count", "cpu_percent", "cpu_period"}
    | {"cpu_quota", "cpu_rt_period", "cpu_rt_runtime", "cpu_shares", "cpus", "cpuset", "depends_on", "dns", "dns_opt"}
    | {"dns_search", "domainname", "entrypoint", "environment", "expose", "external_links", "extra_hosts"}
    | {"healthcheck", "hostname", "image", "init", "labels", "links", "mac_address", "mem_limit", "mem_reservation"}
    | {"mem_swappiness", "memswap_limit", "name", "networks", "oom_kill_disable", "pids_limit", "platform", "ports"}
    | {"profiles", "pull_policy", "read_only", "restart", "scale", "secrets", "shm_size", "stdin_open"}
    | {"stop_grace_period", "stop_signal", "tmpfs", "tty", "ulimits", "user", "volumes", "working_dir"}
)
"""Settings that do not weaken a container's isolation, or are checked below."""
HARMLESS_DEPLOY = frozenset(
    {"endpoint_mode", "labels", "mode", "placement", "replicas", "restart_policy", "rollback_config", "update_config"}
)
HARMLESS_NETWORK = frozenset(
    {"attachable", "enable_ipv4", "enable_ipv6", "external", "internal", "labels", "name", "driver", "ipam"}
)
HARMLESS_ENDPOINT = frozenset({"aliases", "gw_priority", "ipv4_address", "ipv6_address", "mac_address", "priority"})
HARMLESS_VOLUME = frozenset({"external", "labels", "name", "driver"})
HARMLESS_TOP = frozenset({"configs", "name", "networks", "secrets", "services", "version", "volumes"})
SHARED_NAMESPACES = ("network_mode", "pid", "ipc")

READS_FILES: Mapping[str, str] = {
    "build": "is built from files of the host",
    "env_file": "reads an environment file of the host",
    "label_file": "reads a label file of the host",
    "credential_spec": "reads a credential file of the host",
    "develop": "watches files of the host",
    "provider": "runs a program on the host",
    "use_api_socket": "gets the socket of the engine",
}
"""Settings of a service that make Compose read or run something on this host."""


def host_access_reasons(tree: Mapping[str, Any]) -> list[str]:
    """Why Compose would read files of this host, or run its programs, just by loading a parsed file."""
    reasons = [f"the file has `{name}`, which reads other files" for name in ("include",) if tree.get(name)]
    for name, service in _entries(tree.get("services")):
        reasons += [f"`{name}` {why}" for key, why in READS_FILES.items() if service.get(key)]
        extends = service.get("extends")
        if isinstance(extends, Mapping) and extends.get("file"):
            reasons.append(f"`{name}` extends a file of the host")
    for kind in ("configs", "secrets"):
        for name, one in _entries(tree.get(kind)):
            if one.get("file"):
                reasons.append(f"the {kind.removesuffix('s')} `{name}` is a file of the host")
    return reasons


def root_reasons(configuration: Configuration) -> list[str]:
    """Why deploying a configuration amounts to root on the host; each reason begins with what it is about."""
    config = configuration.config
    reasons = host_access_reasons(config)
    reasons += [f"the file has `{key}`" for key in config if key not in HARMLESS_TOP and not key.startswith("x-")]
    for name, service in configuration.services.items():
        reasons += [f"`{name}` {why}" for why in _service_reasons(configuration, service)]
    for name, network in _entries(config.get("networks")):
        reasons += [f"the network `{name}` {why}" for why in _network_reasons(network)]
    for name, volume in _entries(config.get("volumes")):
        reasons += [f"the volume `{name}` {why}" for why in _volume_reasons(volume)]
    return list(dict.fromkeys(reasons))


def check_deployment(engine: Engine, configuration: Configuration, tool: Tool, permit: PolicyCheck) -> None:
    """Return if the caller may create all containers of a configuration. `tool`: `create_container`.

    Raises:
        Denied: a scope is missing, or the policy or a label forbids it.
    """
    stack = str(configuration.config["name"])
    if reasons := root_reasons(configuration):
        CURRENT_CALLER.get().require("exec", f"deploying `{stack}` ({'; '.join(reasons)})")
    for service in configuration.services:
        for name in container_names(configuration, service):
            permit(tool, create_arguments(configuration, service, name))
    check_volumes(engine, [f"{name}:/" for name in _volumes(configuration)])
    for network in _networks(configuration):
        try:
            allowed_network(engine, network)
        except NotFound:
            # Compose creates it, or reports that an external one is missing.
            continue


def container_names(configuration: Configuration, service: str) -> list[str]:
    """Names of the containers that Compose makes for a service."""
    if name := configuration.services[service].get("container_name"):
        return [str(name)]
    count = min(max(1, configuration.replicas(service)), MAX_CHECKED_REPLICAS)
    return [f"{configuration.config['name']}-{service}-{number}" for number in range(1, count + 1)]


def create_arguments(configuration: Configuration, service: str, name: str) -> dict[str, Any]:
    """Arguments of `create_container` for one container of a service, with settings that the tool does not offer."""
    one = configuration.services[service]
    environment = [f"{key}={value}" for key, value in _mapping(one.get("environment")).items() if value is not None]
    networks = [configuration.network_name(network) for network in _mapping(one.get("networks"))]
    return {
        **guarded_arguments(configuration, one),
        "image": str(one.get("image") or ""),
        "name": name,
        "env": redact_environment(environment),
        "labels": [f"{key}={value}" for key, value in _mapping(one.get("labels")).items()],
        "ports": [port_text(port) for port in one.get("ports") or ()],
        "restart": str(one.get("restart") or ""),
        "networks": networks,
        "volumes": list(filter(None, (_mount_text(configuration, mount) for mount in one.get("volumes") or ()))),
    }


def guarded_arguments(configuration: Configuration, service: Service) -> dict[str, Any]:
    """The settings of a service that guardrails judge. Another service of the same stack may be joined."""
    guarded = {key: service[key] for key in GUARDED if service.get(key)}
    for key in SHARED_NAMESPACES:
        kind, _, owner = str(guarded.get(key, "")).partition(":")
        if kind == "service" and owner in configuration.services:
            del guarded[key]
    if "volumes_from" in guarded:
        others = [one for one in guarded["volumes_from"] if str(one).partition(":")[0] not in configuration.services]
        guarded = {**guarded, "volumes_from": others}
    if service.get("cgroup"):
        guarded["cgroupns"] = service["cgroup"]
    return guarded


def port_text(port: Any) -> str:
    """`8080:80`, with the address and a protocol other than TCP."""
    if not isinstance(port, Mapping):
        return str(port)
    address = f"{port['host_ip']}:" if port.get("host_ip") else ""
    outer = f"{address}{port['published']}:" if port.get("published") else address
    protocol = str(port.get("protocol") or "tcp")
    return f"{outer}{port.get('target')}{'' if protocol == 'tcp' else f'/{protocol}'}"


def _service_reasons(configuration: Configuration, service: Service) -> Iterator[str]:
    yield from guardrails.argument_reasons(guarded_arguments(configuration, service))
    mounts = [_mount_text(configuration, one) for one in service.get("volumes") or ()]
    yield from guardrails.argument_reasons({"volumes": mounts})
    for mount in service.get("volumes") or ():
        if _mapping(mount).get("type") not in ("volume", "bind", "tmpfs"):
            yield f"mounts a {_mapping(mount).get('type') or 'volume'} of a kind that is not checked"
    for hook in (*(service.get("post_start") or ()), *(service.get("pre_stop") or ())):
        if _mapping(hook).get("privileged"):
            yield "runs a command with all privileges"
    logging = _mapping(service.get("logging"))
    if logging.get("driver") and logging["driver"] not in USUAL_LOG_DRIVERS:
        yield f"sends its log to `{logging['driver']}`"
    deploy = _mapping(service.get("deploy"))
    reserved = _mapping(_mapping(deploy.get("resources")).get("reservations"))
    if reserved.get("devices") or reserved.get("generic_resources"):
        yield "gives a container access to host devices"
    yield from (f"sets `deploy.{key}`" for key in deploy if key not in HARMLESS_DEPLOY | {"resources"})
    for endpoint in _mapping(service.get("networks")).values():
        yield from (f"sets `{key}` of a network" for key in _mapping(endpoint) if key not in HARMLESS_ENDPOINT)
    checked = HARMLESS | {*GUARDED, *READS_FILES, "cgroup", "deploy", "logging", "post_start", "pre_stop"}
    yield from (f"sets `{key}`" for key, value in service.items() if value and key not in checked and key[:2] != "x-")


def _network_reasons(network: Mapping[str, Any]) -> Iterator[str]:
    yield from guardrails.argument_reasons({"network": network.get("name")})
    if network.get("driver") not in (None, "", "bridge", "default"):
        yield f"has the driver `{network['driver']}`"
    ipam = _mapping(network.get("ipam"))
    if ipam.get("config") or ipam.get("options") or ipam.get("driver") not in (None, "", "default"):
        yield "has its own addresses, which can take over traffic of the host"
    yield from (f"sets `{key}`" for key, value in network.items() if value and key not in HARMLESS_NETWORK)


def _volume_reasons(volume: Mapping[str, Any]) -> Iterator[str]:
    yield from guardrails.argument_reasons({"driver_opts": volume.get("driver_opts")})
    if volume.get("driver") not in (None, "", "local"):
        yield f"has the driver `{volume['driver']}`"
    yield from (
        f"sets `{key}`" for key, value in volume.items() if value and key not in HARMLESS_VOLUME | {"driver_opts"}
    )


def _mount_text(configuration: Configuration, mount: Any) -> str:
    """A mount as `create_container` takes it; a folder of the host keeps its path whatever characters it has."""
    if not isinstance(mount, Mapping):
        return str(mount)
    target, mode = str(mount.get("target") or ""), ":ro" if mount.get("read_only") else ""
    source = str(mount.get("source") or "")
    if mount.get("type") == "bind":
        propagation = _mapping(mount.get("bind")).get("propagation")
        mode = ":".join(filter(None, ["", ",".join(filter(None, [mode.strip(":"), str(propagation or "")]))]))
        return f"{source if source.startswith('/') else f'/{source}'}:{target}{mode}"
    if mount.get("type") != "volume" or not source:
        return ""
    return f"{configuration.volume_name(source)}:{target}{mode}"


def _volumes(configuration: Configuration) -> list[str]:
    """Names of all volumes that the services mount."""
    mounts = [one for service in configuration.services.values() for one in service.get("volumes") or ()]
    named = [one for one in mounts if _mapping(one).get("type") == "volume" and one.get("source")]
    return list(dict.fromkeys(configuration.volume_name(str(one["source"])) for one in named))


def _networks(configuration: Configuration) -> list[str]:
    joined = [name for service in configuration.services.values() for name in _mapping(service.get("networks"))]
    return list(dict.fromkeys(configuration.network_name(name) for name in joined))


def _entries(value: Any) -> list[tuple[str, Mapping[str, Any]]]:
    return [(str(name), _mapping(entry)) for name, entry in _mapping(value).items()]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


@dataclass(frozen=True, slots=True)
class ContainerTools:
    """The tools of containers whose policy rules apply to the containers of a stack."""

    create: Tool
    start: Tool
    stop: Tool
    restart: Tool
    remove: Tool
