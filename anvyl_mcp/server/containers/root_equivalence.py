"""What makes an existing container root-equivalent: its settings, read as the arguments of `create_container`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anvyl_mcp.core.redaction import redact_env
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.policy import guardrails

Raw = Mapping[str, Any]

GUARDED = {
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
HARMLESS = frozenset(
    {"AutoRemove", "Binds", "BlkioWeight", "CapDrop", "ConsoleSize", "CpuCount", "CpuPercent", "CpuPeriod", "CpuQuota"}
    | {"CpuRealtimePeriod", "CpuRealtimeRuntime", "CpuShares", "CpusetCpus", "CpusetMems", "Dns", "DnsOptions"}
    | {"DnsSearch", "ExtraHosts", "Init", "KernelMemory", "KernelMemoryTCP", "Links", "Memory", "MemoryReservation"}
    | {"MemorySwap", "MemorySwappiness", "Mounts", "NanoCpus", "OomKillDisable", "PidsLimit", "PortBindings"}
    | {"PublishAllPorts", "ReadonlyRootfs", "RestartPolicy", "ShmSize", "Tmpfs", "Ulimits"}
)
"""What decides nothing about the walls around a container, or is looked at otherwise. All else needs `exec`."""
USUAL: Mapping[str, tuple[str, ...]] = {
    "Runtime": ("runc", "crun", "oci"),
    "Isolation": ("default",),
    "OomScoreAdj": (),
}
USUAL_LOGS = ("json-file", "local", "journald", "none", "k8s-file")
MASKED = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}
READ_ONLY = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
NO_NETWORK_OF_ITS_OWN = ("host", "none", "container")
OF_ITS_OWN = ("slirp4netns", "pasta", "private")
"""Podman's words for the network that a container has when none is asked for; options of these are not recorded."""


def reasons(engine: Engine, container: Raw, name: str = "") -> list[str]:
    """Why making this container again is as good as root on the host, in words that follow "it"."""
    return [*guardrails.powers(arguments(engine, container, name)), *_unusual(container["HostConfig"])]


def arguments(engine: Engine, container: Raw, name: str = "") -> dict[str, Any]:
    """How `create_container` would be asked for a container that was inspected, and what only others ask for."""
    host, config = container["HostConfig"], container["Config"]
    guarded = {argument: host[key] for key, argument in GUARDED.items() if host.get(key)}
    if guarded.get("cgroupns") == "host" and str(engine.info().get("CgroupVersion")) == "1":
        # With control groups of version 1 the engine gives every container the host's namespace of them.
        del guarded["cgroupns"]
    joined = container["NetworkSettings"]["Networks"].values()
    # A mode that is the id of a network stands under `networks` with its name.
    if guarded.get("network") in (*OF_ITS_OWN, *(one.get("NetworkID") for one in joined)):
        del guarded["network"]
    ports = [f"{one.get('HostPort')}:{inner}" for inner, all_ in (host.get("PortBindings") or {}).items()
             for one in all_ or ()]  # fmt: skip
    return {
        **guarded,
        "image": str(config["Image"]),
        "name": name,
        "env": redact_env.mask(config["Env"]),
        "labels": [f"{label}={value}" for label, value in config["Labels"].items()],
        "ports": ports,
        "restart": str((host.get("RestartPolicy") or {}).get("Name") or ""),
        "networks": networks(container),
        "volumes": [*map(str, host.get("Binds") or ()), *map(_long_mount, host.get("Mounts") or ())],
    }


def networks(container: Raw) -> list[str]:
    """The networks that a container was in, the first one first; none when it had no network of its own."""
    mode = str(container["HostConfig"].get("NetworkMode") or "default")
    if mode.partition(":")[0] in NO_NETWORK_OF_ITS_OWN:
        return []
    first = "bridge" if mode == "default" else mode
    return sorted(container["NetworkSettings"]["Networks"], key=lambda name: name != first)


def _unusual(host: Raw) -> Iterator[str]:
    """What no guardrail knows: it needs the same right, whatever it is."""
    for key, value in host.items():
        if not value or key in GUARDED or key in HARMLESS or value in USUAL.get(key, ()):
            continue
        if key == "LogConfig" and value.get("Type") in USUAL_LOGS:
            continue
        if (key == "MaskedPaths" and set(value) >= MASKED) or (key == "ReadonlyPaths" and set(value) >= READ_ONLY):
            continue
        if key not in ("ContainerIDFile", "VolumeDriver") or value != "local":
            yield f"sets `{key}`"
    if host.get("MaskedPaths") == [] or host.get("ReadonlyPaths") == []:
        yield "shows what is hidden of the host"


def _long_mount(mount: Raw) -> str:
    words = [f"type={mount.get('Type')}"]
    if source := mount.get("Source"):
        words.append(f"source={source}")
    if (mount.get("VolumeOptions") or {}).get("DriverConfig"):
        words.append("volume-driver=given")
    if propagation := (mount.get("BindOptions") or {}).get("Propagation"):
        words.append(f"bind-propagation={propagation}")
    return ",".join(words)
