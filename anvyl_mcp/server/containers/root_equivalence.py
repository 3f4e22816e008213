"""Which settings make an existing container root-equivalent, judged as arguments of `create_container`."""

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
"""Key in `HostConfig` → argument name that the guardrails use."""
HARMLESS_SETTINGS = frozenset(
    {"AutoRemove", "Binds", "BlkioWeight", "CapDrop", "ConsoleSize", "CpuCount", "CpuPercent", "CpuPeriod", "CpuQuota"}
    | {"CpuRealtimePeriod", "CpuRealtimeRuntime", "CpuShares", "CpusetCpus", "CpusetMems", "Dns", "DnsOptions"}
    | {"DnsSearch", "ExtraHosts", "Init", "KernelMemory", "KernelMemoryTCP", "Links", "Memory", "MemoryReservation"}
    | {"MemorySwap", "MemorySwappiness", "Mounts", "NanoCpus", "OomKillDisable", "PidsLimit", "PortBindings"}
    | {"PublishAllPorts", "ReadonlyRootfs", "RestartPolicy", "ShmSize", "Tmpfs", "Ulimits"}
)
"""Settings that do not weaken a container's isolation, or are checked elsewhere. All others need `exec`."""
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
"""Podman's modes for a container created without a network; it does not record their options."""


def root_reasons(engine: Engine, container: EngineObject, name: str = "") -> list[str]:
    """Why creating this container again is equivalent to root on the host; each reason continues "it …"."""
    return [
        *guardrails.argument_reasons(create_arguments(engine, container, name)),
        *_unknown_settings(container["HostConfig"]),
    ]


def create_arguments(engine: Engine, container: EngineObject, name: str = "") -> dict[str, Any]:
    """Arguments of `create_container` for an inspected container, plus settings that the tool does not offer."""
    host, config = container["HostConfig"], container["Config"]
    guarded = {argument: host[key] for key, argument in GUARDED_SETTINGS.items() if host.get(key)}
    if guarded.get("cgroupns") == "host" and str(engine.info().get("CgroupVersion")) == "1":
        # With cgroups v1 every container shares the host's cgroup namespace.
        del guarded["cgroupns"]
    joined = container["NetworkSettings"]["Networks"].values()
    # If the mode is a network's id, `networks` lists that network by name.
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
    """Networks of the container, the primary one first; empty if it has no network of its own."""
    mode = str(container["HostConfig"].get("NetworkMode") or "default")
    if mode.partition(":")[0] in SHARED_NETWORK_MODES:
        return []
    first = "bridge" if mode == "default" else mode
    return sorted(container["NetworkSettings"]["Networks"], key=lambda name: name != first)


def _unknown_settings(host: EngineObject) -> Iterator[str]:
    """Settings that no guardrail knows; they need the same right."""
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
        yield "exposes masked paths of the host"


def _mount_argument(mount: EngineObject) -> str:
    words = [f"type={mount.get('Type')}"]
    if source := mount.get("Source"):
        words.append(f"source={source}")
    if (mount.get("VolumeOptions") or {}).get("DriverConfig"):
        words.append("volume-driver=given")
    if propagation := (mount.get("BindOptions") or {}).get("Propagation"):
        words.append(f"bind-propagation={propagation}")
    return ",".join(words)
