"""The machine itself."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

import psutil
from pydantic import BaseModel, Field

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Denied, EngineError, Timeout
from anvyl_mcp.server import commands
from anvyl_mcp.server.commands import CommandOutput
from anvyl_mcp.server.container_host import check_runs_commands, check_sees_processes, describe_limits
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.file_systems import list_file_systems
from anvyl_mcp.server.identity import HostIdentity
from anvyl_mcp.server.swarm.membership import SwarmPart, parse_part
from anvyl_mcp.server.tool import Bytes, Percent, Result, Row, Seconds, schema_of, tool

PROCESS_SECONDS = 0.3
"""Interval over which the cpu share of processes is measured."""


class EngineInfo(BaseModel):
    """The Docker engine; `error` says why it is not available."""

    name: str = ""
    version: str = ""
    api_version: str = ""
    containers_running: int = 0
    containers_total: int = 0
    images: int = 0
    error: str = ""
    swarm: SwarmPart | None = None

    def text(self) -> str:
        """One line."""
        if self.error:
            return f"Docker: {self.error}"
        running = f"{self.containers_running} of {text.plural(self.containers_total, 'container')} running"
        swarm = f"; {self.swarm.text()}" if self.swarm and self.swarm.state != "inactive" else ""
        images = text.plural(self.images, "image")
        return f"{self.name} {self.version} (API {self.api_version}): {running}, {images}{swarm}"


class HostInfo(Result):
    """What kind of machine this is."""

    name: str
    hostname: str
    os: str
    kernel: str
    arch: str
    cpus: int
    memory_total: Bytes
    uptime_seconds: Seconds
    engine: EngineInfo
    limits: str = ""
    """What a server in a container does not see."""

    def text(self) -> str:
        """Two lines, the machine and its engine, and a third if the server is in a container."""
        size, up = text.format_size(self.memory_total), text.format_duration(self.uptime_seconds)
        machine = f"{self.hostname}: {self.os}, {self.arch}, {text.plural(self.cpus, 'cpu')}, {size} memory, up {up}"
        return "\n".join([machine, self.engine.text(), *([f"note: {self.limits}"] if self.limits else [])])


class Usage(BaseModel):
    """How much of something is used, and how much is available.

    `free` is less than `total - used` on a file system with a reserve; `percent` is of the usable space, as in `df`.
    """

    used: Bytes
    total: Bytes
    free: Bytes = 0
    percent: Percent

    def text(self) -> str:
        """`402 MiB of 23.5 GiB (2 %)`."""
        return f"{text.format_size(self.used)} of {text.format_size(self.total)} ({self.percent:.0f} %)"


class Disk(Usage):
    """One file system."""

    mount: str

    def text(self) -> str:
        """`33 GiB of 252 GiB (32 %), 70 GiB free`."""
        return f"{super().text()}, {text.format_size(self.free)} free"


class Temperature(BaseModel):
    """Reading of one sensor."""

    sensor: str
    celsius: float


class Resources(Result):
    """How busy and how full the machine is."""

    cpu_percent: Percent
    load: list[float]
    memory: Usage
    swap: Usage
    disks: list[Disk]
    cores: list[Percent]
    temperatures: list[Temperature]
    uptime_seconds: Seconds

    def text(self) -> str:
        """One line each for cpu, memory, every disk and every temperature."""
        load, up = " ".join(f"{value:g}" for value in self.load), text.format_duration(self.uptime_seconds)
        lines = [f"cpu {self.cpu_percent:.0f} % of {text.plural(len(self.cores), 'core')}, load {load}, up {up}"]
        lines.append(f"memory {self.memory.text()}")
        lines += [f"disk {disk.mount} {disk.text()}" for disk in self.disks]
        return "\n".join(lines + [f"temperature {one.sensor} {one.celsius:g} °C" for one in self.temperatures])


class Process(Row):
    """One process, without its arguments, which may contain secrets."""

    columns = ("pid", "name", "user", "cpu_percent", "memory")

    pid: int
    name: str
    user: str
    cpu_percent: Percent
    memory: Bytes


class Processes(Result):
    """Processes, the busiest first."""

    processes: list[Process]
    total: int
    more: int = 0

    def text(self) -> str:
        """The rows, without a count of the others, which are rarely of interest."""
        return text.format_result(self.model_dump(mode="json", exclude={"more"}), schema_of(type(self)))


@tool(
    say=["host info", "show host info", "what kind of machine is this", "docker version"],
    about=(
        "kernel, operating system, os, distro, distribution, linux, ubuntu, debian, core, architecture, "
        "uptime, reboot, been up, up for, hardware, docker version, version of docker, engine, installed, "
        "docker same version, docker same, newest docker, oldest docker, up longest, specs, last boot, how "
        "long, many day up, up to date, outdated, up since, reboot longest"
    ),
)
def get_host_info(engine: Engine, identity: HostIdentity) -> HostInfo:
    """Show the machine: operating system, cpus, memory, uptime, Docker engine version."""
    found, limits = _engine_info(engine), describe_limits()
    # In a container, only the engine knows the machine.
    machine = _machine_of(engine) if limits and not found.error else {}
    return HostInfo(
        name=identity.name,
        hostname=machine.get("Name") or socket.gethostname(),
        os=machine.get("OperatingSystem") or _os_name(),
        kernel=platform.release(),
        arch=platform.machine(),
        cpus=psutil.cpu_count() or 1,
        memory_total=psutil.virtual_memory().total,
        uptime_seconds=round(time.time() - psutil.boot_time()),
        engine=found,
        limits=limits,
    )


@tool(
    say=[
        "host resources",
        "get host resources",
        "show cpu and memory",
        "how busy is the host",
        "system health",
        "df -h",
        "free -m",
    ],
    about=(
        "cpu, memory, load, disk, space, storage, free, full, temperature, hot, busy, swap, idle, room, "
        "overloaded, headroom, resource, spare, gb left, tight, running out, left, bored, stress"
    ),
)
def get_host_resources() -> Resources:
    """Show how busy the machine is: cpu, load, memory and disk space used and total."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    cores = psutil.cpu_percent(interval=0.2, percpu=True)
    return Resources(
        cpu_percent=round(sum(cores) / len(cores), 1),
        load=[round(value, 2) for value in os.getloadavg()],
        memory=Usage(
            used=memory.total - memory.available, total=memory.total, free=memory.available, percent=memory.percent
        ),
        swap=Usage(used=swap.used, total=swap.total, free=swap.free, percent=swap.percent),
        disks=[Disk(**asdict(one)) for one in list_file_systems()],
        cores=cores,
        temperatures=_temperatures(),
        uptime_seconds=round(time.time() - psutil.boot_time()),
    )


@tool(
    say=["list processes", "show processes", "what uses the cpu", "ps aux", "top", "htop"],
    about="process, pid, program, task, top, hog, eating, so high, why slow, why cpu",
    untrusted=True,
)
def list_processes(
    sort: Literal["cpu", "memory"] = "cpu", limit: Annotated[int, Field(ge=1, le=100)] = 10
) -> Processes:
    """List the machine's busiest processes."""
    check_sees_processes()
    _sample_processes()
    time.sleep(PROCESS_SECONDS)
    found = _sample_processes()
    found.sort(key=lambda one: one.memory if sort == "memory" else one.cpu_percent, reverse=True)
    return Processes(processes=found[:limit], total=len(found), more=max(0, len(found) - limit))


@tool(say=["run command {command}", "execute {command}"], destroys=True, scope="exec", untrusted=True, seconds=310)
async def execute_command(
    command: Annotated[str, Field(description="program and arguments; no shell unless sh -c '…'", min_length=1)],
    timeout: Annotated[int, Field(description="seconds", ge=1, le=300)] = 30,
) -> CommandOutput:
    """Run a command on the machine itself, not in a container."""
    check_runs_commands()
    return await commands.run(commands.split(command), seconds=timeout)


def _sample_processes() -> list[Process]:
    """Every process, with its cpu share since the previous call, which psutil remembers."""
    wanted = ["pid", "name", "username", "cpu_percent", "memory_info"]
    return [
        Process(
            pid=info["pid"],
            name=text.clean(info["name"] or ""),
            user=text.clean(info["username"] or ""),
            cpu_percent=info["cpu_percent"] or 0.0,
            memory=info["memory_info"].rss if info["memory_info"] else 0,
        )
        for info in (process.info for process in psutil.process_iter(wanted))
    ]


def _temperatures() -> list[Temperature]:
    """The highest value of each sensor; empty in most virtual machines."""
    read = getattr(psutil, "sensors_temperatures", None)
    found = read() if read else {}
    return [
        Temperature(sensor=name, celsius=round(max(current), 1))
        for name, entries in sorted(found.items())
        if (current := [one.current for one in entries if isinstance(one.current, int | float)])
    ]


def _engine_info(engine: Engine) -> EngineInfo:
    """The engine, or its error: the machine can be described without it."""
    try:
        info, version = engine.info(), engine.version()
    except (EngineError, Timeout, Denied) as error:
        return EngineInfo(error=str(error))
    return EngineInfo(
        name=_engine_product(info, version),
        version=str(version["Version"]),
        api_version=str(version["ApiVersion"]),
        containers_running=int(info["ContainersRunning"]),
        containers_total=int(info["Containers"]),
        images=int(info["Images"]),
        swarm=parse_part(info),
    )


def _machine_of(engine: Engine) -> Mapping[str, str]:
    info = engine.info()
    return {name: text.one_line(str(info.get(name) or "")) for name in ("Name", "OperatingSystem")}


def _engine_product(info: Mapping[str, Any], version: Mapping[str, Any]) -> str:
    """Product name of the engine; some run in a virtual machine with its own memory and disk."""
    parts = [str(part.get("Name", "")) for part in version.get("Components") or ()]
    if any("podman" in part.lower() for part in parts):
        return "Podman"
    system = str(info["OperatingSystem"])
    return next((name for name in ("Docker Desktop", "OrbStack", "Rancher Desktop") if name in system), "Docker")


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"
