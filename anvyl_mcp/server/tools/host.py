"""The machine itself."""

from __future__ import annotations

import os
import platform
import socket
import time
from typing import Annotated

import psutil
from pydantic import BaseModel, Field

from anvyl_mcp import text
from anvyl_mcp.errors import EngineError, Timeout
from anvyl_mcp.server import commands
from anvyl_mcp.server.engine import Engine
from anvyl_mcp.server.identity import HostIdentity
from anvyl_mcp.server.tool import Bytes, Percent, Result, Seconds, tool
from anvyl_mcp.server.translate import engine_errors


class EngineInfo(BaseModel):
    """The Docker engine; `error` says why it cannot be asked."""

    name: str = ""
    version: str = ""
    api_version: str = ""
    containers_running: int = 0
    containers_total: int = 0
    images: int = 0
    error: str = ""

    def text(self) -> str:
        """One line."""
        if self.error:
            return f"Docker: {self.error}"
        running = f"{self.containers_running} of {text.plural(self.containers_total, 'container')} running"
        return f"Docker {self.version} (API {self.api_version}): {running}, {text.plural(self.images, 'image')}"


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

    def text(self) -> str:
        """Two lines: the machine and its engine."""
        size, up = text.size(self.memory_total), text.duration(self.uptime_seconds)
        machine = f"{self.hostname}: {self.os}, {self.arch}, {text.plural(self.cpus, 'cpu')}, {size} memory, up {up}"
        return f"{machine}\n{self.engine.text()}"


class Usage(BaseModel):
    """How much of something is used."""

    used: Bytes
    total: Bytes
    percent: Percent

    def text(self) -> str:
        """`402 MiB of 23.5 GiB (2 %)`."""
        return f"{text.size(self.used)} of {text.size(self.total)} ({self.percent:.0f} %)"


class Disk(Usage):
    """One file system."""

    mount: str


class Resources(Result):
    """How busy and how full the machine is."""

    cpu_percent: Percent
    load: list[float]
    memory: Usage
    swap: Usage
    disks: list[Disk]

    def text(self) -> str:
        """A line each for cpu, memory and every disk."""
        load = " ".join(f"{value:g}" for value in self.load)
        lines = [f"cpu {self.cpu_percent:.0f} %, load {load}", f"memory {self.memory.text()}"]
        return "\n".join(lines + [f"disk {disk.mount} {disk.text()}" for disk in self.disks])


class CommandOutput(Result):
    """What a command printed, and how it ended."""

    exit_code: int
    stdout: str
    stderr: str
    truncated: bool
    timed_out: bool

    def text(self) -> str:
        """Output first, then what is unusual about its end."""
        parts = [self.stdout.rstrip("\n"), self.stderr.rstrip("\n")]
        if self.truncated:
            parts.append("… output cut")
        if self.timed_out:
            parts.append("stopped: it took too long")
        elif self.exit_code or not any(parts):
            parts.append(f"exit code {self.exit_code}")
        return "\n".join(part for part in parts if part)


@tool(say=["host info", "show host info", "what kind of machine is this"])
def get_host_info(engine: Engine, identity: HostIdentity) -> HostInfo:
    """Show the machine: operating system, cpus, memory, uptime, Docker engine version."""
    return HostInfo(
        name=identity.name,
        hostname=socket.gethostname(),
        os=_os_name(),
        kernel=platform.release(),
        arch=platform.machine(),
        cpus=psutil.cpu_count() or 1,
        memory_total=psutil.virtual_memory().total,
        uptime_seconds=round(time.time() - psutil.boot_time()),
        engine=_engine_info(engine),
    )


@tool(say=["host resources", "get host resources", "show cpu and memory", "how busy is the host", "system health"])
def get_host_resources() -> Resources:
    """Show how busy the machine is: cpu, load, memory and disk space used and total."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return Resources(
        cpu_percent=psutil.cpu_percent(interval=0.2),
        load=[round(value, 2) for value in os.getloadavg()],
        memory=Usage(used=memory.total - memory.available, total=memory.total, percent=memory.percent),
        swap=Usage(used=swap.used, total=swap.total, percent=swap.percent),
        disks=_disks(),
    )


@tool(say=["run command {command}", "execute {command}"], destroys=True, scope="exec", untrusted=True, seconds=310)
async def execute_command(
    command: Annotated[str, Field(description="program and arguments; no shell unless sh -c '…'", min_length=1)],
    timeout: Annotated[int, Field(description="seconds", ge=1, le=300)] = 30,
) -> CommandOutput:
    """Run a command on the machine itself, not in a container."""
    done = await commands.run(commands.split(command), seconds=timeout)
    return CommandOutput(
        exit_code=done.exit_code,
        stdout=done.stdout,
        stderr=done.stderr,
        truncated=done.truncated,
        timed_out=done.timed_out,
    )


def _engine_info(engine: Engine) -> EngineInfo:
    """Without an engine the machine can still be described."""
    try:
        with engine_errors():
            info, version = engine.client().info(), engine.version()
    except (EngineError, Timeout) as error:
        return EngineInfo(error=str(error))
    return EngineInfo(
        name=str(info["Name"]),
        version=str(version["Version"]),
        api_version=str(version["ApiVersion"]),
        containers_running=int(info["ContainersRunning"]),
        containers_total=int(info["Containers"]),
        images=int(info["Images"]),
    )


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _disks() -> list[Disk]:
    """Each real file system once: bind mounts and container layers show the same device again."""
    seen: dict[str, Disk] = {}
    for part in psutil.disk_partitions(all=False):
        if part.device in seen or part.fstype in ("squashfs", "overlay"):
            continue
        try:
            usage = psutil.disk_usage(part.mountpoint)
        except OSError:
            continue
        if usage.total:
            seen[part.device] = Disk(mount=part.mountpoint, used=usage.used, total=usage.total, percent=usage.percent)
    if not seen:
        usage = psutil.disk_usage("/")
        return [Disk(mount="/", used=usage.used, total=usage.total, percent=usage.percent)]
    return sorted(seen.values(), key=lambda disk: disk.mount)
