"""What makes an existing container root-equivalent: its settings, read as the arguments of `create_container`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anvyl_mcp.core.redaction.redact_env import redact_environment
from anvyl_mcp.server.engine.compat import EngineObject
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.policy import guardrails

GUARDED_SETTINGS = {
    "VolumesFrom": "volumes_from",
    "NetworkMode": "network",
    "PidMode": "pid",
    "IpcMode": "ipc",
    "UTSMode": "uts",
    "UsernsMode": "userns",
    "CgroupnsMode": "cgroupns",
    "Privileged": "privileged",
    "CapAdd": "cap_add",
    "Devices": "devices",
    "DeviceCgroupRules": "device_cgroup_rules",
    "DeviceRequests": "device_requests",
    "SecurityOpt": "security_opt",
    "CgroupParent": "cgroup_parent",
}
"""What the engine calls it → the argument that the guardrails know it by."""
HARMLESS_SETTINGS = frozenset(
    {"AutoRemove", "Binds", "BlkioWeight", "CapDrop", "ConsoleSize", "CpuCount", "CpuPercent", "CpuPeriod", "CpuQuota"}
    | {"CpuRealtimePeriod", "CpuRealtimeRuntime", "CpuShares", "CpusetCpus", "CpusetMems", "Dns", "DnsOptions"}
    | {"DnsSearch", "ExtraHosts", "Init", "KernelMemory", "KernelMemoryTCP", "Links", "Memory", "MemoryReservation"}
    | {"MemorySwap", "MemorySwappiness", "Mounts", "NanoCpus", "OomKillDisable", "PidsLimit", "PortBindings"}
    | {"PublishAllPorts", "ReadonlyRootfs", "RestartPolicy", "ShmSize", "Tmpfs", "Ulimits"}
)
"""What decides nothing about the walls around a container, or is looked at otherwise. All else needs `exec`."""
USUAL_VALUES: Mapping[str, tuple[str, ...]] = {
    "Runtime": ("runc", "crun", "oci"),
    "Isolation": ("default",),
    "OomScoreAdj": (),
}
USUAL_LOG_DRIVERS = ("json-file", "local", "journald", "none", "k8s-file")
MASKED_PATHS = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}
READ_ONLY_PATHS = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
SHARED_NETWORK_MODES = ("host", "none", "container")
PODMAN_DEFAULT_MODES = ("slirp4netns", "pasta", "private")
"""Podman's words for the network that a container has when none is asked for; options of these are not recorded."""


def root_reasons(engine: Engine, container: EngineObject, name: str = "") -> list[str]:
    """Why making this container again is as good as root on the host, in words that follow "it"."""
    return [
        *guardrails.argument_reasons(create_arguments(engine, container, name)),
        *_unknown_settings(container["HostConfig"]),
    ]


def create_arguments(engine: Engine, container: EngineObject, name: str = "") -> dict[str, Any]:
    """How `create_container` would be asked for a container that was inspected, and what only others ask for."""
    host, config = container["HostConfig"], container["Config"]
    guarded = {argument: host[key] for key, argument in GUARDED_SETTINGS.items() if host.get(key)}
    if guarded.get("cgroupns") == "host" and str(engine.info().get("CgroupVersion")) == "1":
        # With control groups of version 1 the engine gives every container the host's namespace of them.
        del guarded["cgroupns"]
    joined = container["NetworkSettings"]["Networks"].values()
    # A mode that is the id of a network stands under `networks` with its name.
    if guarded.get("network") in (*PODMAN_DEFAULT_MODES, *(one.get("NetworkID") for one in joined)):
        del guarded["network"]
    ports = [f"{one.get('HostPort')}:{inner}" for inner, all_ in (host.get("PortBindings") or {}).items()
             for one in all_ or ()]  # fmt: skip
    return {
        **guarded,
        "image": str(config["Image"]),
        "name": name,
        "env": redact_environment(config["Env"]),
        "labels": [f"{label}={value}" for label, value in config["Labels"].items()],
        "ports": ports,
        "restart": str((host.get("RestartPolicy") or {}).get("Name") or ""),
        "networks": joined_networks(container),
        "volumes": [*map(str, host.get("Binds") or ()), *map(_mount_argument, host.get("Mounts") or ())],
    }


def joined_networks(container: EngineObject) -> list[str]:
    """The networks that a container was in, the first one first; none when it had no network of its own."""
    mode = str(container["HostConfig"].get("NetworkMode") or "default")
    if mode.partition(":")[0] in SHARED_NETWORK_MODES:
        return []
    first = "bridge" if mode == "default" else mode
    return sorted(container["NetworkSettings"]["Networks"], key=lambda name: name != first)


def _unknown_settings(host: EngineObject) -> Iterator[str]:
    """What no guardrail knows: it needs the same right, whatever it is."""
    for key, value in host.items():
        if not value or key in GUARDED_SETTINGS or key in HARMLESS_SETTINGS or value in USUAL_VALUES.get(key, ()):
            continue
        if key == "LogConfig" and value.get("Type") in USUAL_LOG_DRIVERS:
            continue
        if (key == "MaskedPaths" and set(value) >= MASKED_PATHS) or (
            key == "ReadonlyPaths" and set(value) >= READ_ONLY_PATHS
        ):
            continue
        if key not in ("ContainerIDFile", "VolumeDriver") or value != "local":
            yield f"sets `{key}`"
    if host.get("MaskedPaths") == [] or host.get("ReadonlyPaths") == []:
        yield "shows what is hidden of the host"


def _mount_argument(mount: EngineObject) -> str:
    words = [f"type={mount.get('Type')}"]
    if source := mount.get("Source"):
        words.append(f"source={source}")
    if (mount.get("VolumeOptions") or {}).get("DriverConfig"):
        words.append("volume-driver=given")
    if propagation := (mount.get("BindOptions") or {}).get("Propagation"):
        words.append(f"bind-propagation={propagation}")
    return ",".join(words)
