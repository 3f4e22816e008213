"""Containers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from anvyl_mcp.core.errors import Conflict
from anvyl_mcp.evaluation.acts.shared import act, free, is_protected, known, output, rows_of
from anvyl_mcp.evaluation.acts.world import CREATED, ENDED, STARTED, Container, Host, time_ago
from anvyl_mcp.orchestrator.rules.results.aggregate import complaint


@act
def list_containers(host: Host, all: bool, name: str, label: str, limit: int) -> dict[str, Any]:
    """List containers, like `docker ps`."""
    found = [
        {**_row(one), "problem": complaint(_row(one))}
        for one in host.containers.values()
        if (all or one.state in ("running", "restarting"))
        and name.lower() in one.name.lower()
        and (not label or any(label in (entry, entry.partition("=")[0]) for entry in one.labels))
    ]
    found.sort(key=lambda one: (one["health"] != "unhealthy", one["state"] != "restarting", one["name"]))
    return rows_of("containers", found, limit)


@act
def get_container_info(host: Host, name: str, reveal: bool) -> dict[str, Any]:
    """Inspect a container, like `docker inspect`."""
    one = host.container(name)
    return {
        **_row(one),
        "started_at": time_ago(timedelta(0) if one.changed else STARTED),
        "finished_at": "" if one.state == "running" else time_ago(timedelta(0) if one.changed else ENDED),
        "exit_code": one.exit_code,
        "oom_killed": one.exit_code == 137 and "out of memory" in " ".join(one.logs),
        "restart_count": 0,
        "protected": is_protected(one),
        "health_output": "",
        "restart_policy": one.restart,
        "command": one.command,
        "env": one.env,
        "mounts": [_mount(written) for written in one.mounts],
        "networks": [network for network, inside in host.networks.items() if one.name in inside],
        "labels": one.labels,
    }


@act
def start_container(host: Host, name: str) -> dict[str, Any]:
    """Start a container."""
    return _set(free(host, name), "running")


@act
def stop_container(host: Host, name: str, timeout: int) -> dict[str, Any]:
    """Stop a container."""
    return _set(free(host, name), "exited")


@act
def restart_container(host: Host, name: str, timeout: int) -> dict[str, Any]:
    """Restart a container."""
    one = free(host, name)
    one.starts += 1
    return _set(one, "running")


@act
def remove_container(host: Host, name: str, force: bool) -> dict[str, Any]:
    """Remove a container."""
    one = free(host, name)
    if one.state == "running" and not force:
        raise Conflict(f"`{one.name}` is running", hint="stop it first, or use force=true")
    del host.containers[one.name]
    return {"id": one.id, "name": one.name}


@act
def create_container(
    host: Host,
    image: str,
    name: str,
    command: str,
    ports: list[str],
    env: list[str],
    volumes: list[str],
    labels: list[str],
    restart: str,
    network: str,
    memory: str,
    cpus: str,
) -> dict[str, Any]:
    """Create and start a container; a missing image is added."""
    called = name or f"{image.rpartition('/')[2].partition(':')[0]}-1"
    if called in host.containers:
        raise Conflict(f"the name `{called}` is in use", hint="choose another name, or remove that container first")
    host.images.setdefault(image, 100 * 1024**2)
    published = [written.replace(":", "->") for written in ports]
    host.containers[called] = made = Container(
        called,
        image,
        ports=published,
        env=env,
        labels=labels,
        mounts=volumes,
        command=command,
        restart=restart or "no",
        made=True,
        changed=True,
    )
    if network:
        known(host.networks, network, "network").append(called)
    return _state(made)


@act
def get_container_logs(host: Host, name: str, tail: int, since: str, grep: str) -> dict[str, Any]:
    """Last log lines of a container."""
    lines = [line for line in host.container(name).logs if grep.lower() in line.lower()]
    return {"lines": lines[-tail:], "truncated": len(lines) > tail, "next_since": time_ago()}


@act
def get_container_stats(host: Host, name: str) -> dict[str, Any]:
    """Usage of running containers, the busiest first."""
    chosen = [host.container(name)] if name else list(host.containers.values())
    rows = [
        {
            "name": one.name,
            "cpu_percent": one.cpu,
            "memory_used": one.memory,
            "memory_limit": host.memory["total"],
            "net_rx": 9000,
            "net_tx": 7000,
            "block_read": 4096,
            "block_write": 4096,
            "pids": 9,
        }
        for one in chosen
        if one.state == "running"
    ]
    rows.sort(key=lambda row: -float(str(row["cpu_percent"])))
    return {"containers": rows, "total": len(rows)}


@act
def exec_in_container(host: Host, name: str, command: str, timeout: int) -> dict[str, Any]:
    """Record a command without running it."""
    one = free(host, name)
    if one.state != "running":
        raise Conflict(f"`{one.name}` is not running", hint="start it first")
    host.commands.append(f"{one.name}: {command}")
    return output(command)


def _row(one: Container) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "image": one.image,
        "state": one.state,
        "status": one.status,
        "health": one.health if one.state == "running" else "",
        "ports": one.ports,
        "created": time_ago(timedelta(0) if one.made else CREATED),
    }


def _set(one: Container, state: str) -> dict[str, Any]:
    one.state, one.changed = state, True
    return _state(one)


def _state(one: Container) -> dict[str, Any]:
    return {"id": one.id, "name": one.name, "image": one.image, "state": one.state}


def _mount(written: str) -> dict[str, str]:
    source, _, rest = written.partition(":")
    target, _, mode = rest.partition(":")
    return {"source": source, "target": target, "mode": mode or "rw"}
