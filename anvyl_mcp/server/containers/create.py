"""Parse the options of `docker run` (`8080:80`, `KEY=value`, `512m`) and create the container."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Conflict, EngineError, InvalidInput
from anvyl_mcp.core.values import ports
from anvyl_mcp.server import commands
from anvyl_mcp.server.containers.attachment_rights import allowed_network, check_volumes
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine, check_unchanged
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.engine.pull import ensure_image
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.tool import BOUND_IDS, CHECK_POLICY

RESTART_POLICIES = ("no", "always", "unless-stopped", "on-failure")


@dataclass(frozen=True)
class RunOptions:
    """Parsed options, in the form of the engine's API."""

    command: list[str] = field(default_factory=list)
    environment: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    image_decided: list[ports.HostPort] = field(default_factory=list)
    """Host ports without a container port: the ports that the image exposes decide."""

    @classmethod
    def parse(
        cls,
        *,
        published: Sequence[str],
        env: Sequence[str],
        volumes: Sequence[str],
        labels: Sequence[str],
        command: str,
        restart: str,
        network: str,
        memory: str,
        cpus: str,
    ) -> RunOptions:
        """Check and convert every option before anything is created.

        Raises:
            InvalidInput: an option cannot be parsed.
        """
        typed = [ports.parse_port(port) for port in published]
        bindings = ports.to_bindings(one for one in typed if isinstance(one, ports.PortMapping))
        host: dict[str, Any] = {"port_bindings": bindings, "binds": [parse_volume(volume) for volume in volumes]}
        if restart:
            host["restart_policy"] = {"Name": _parse_choice(restart, RESTART_POLICIES, "restart")}
        if network:
            host["network_mode"] = network
        if memory:
            host["mem_limit"] = parse_memory(memory)
        if cpus:
            host["nano_cpus"] = parse_cpus(cpus)
        return cls(
            command=split_command(command),
            environment=[parse_pair(entry, "env") for entry in env],
            labels=dict(_parse_label(entry) for entry in labels),
            host={name: value for name, value in host.items() if value},
            image_decided=[one for one in typed if isinstance(one, ports.HostPort)],
        )

    def create(self, engine: Engine, image: str, name: str, progress: Progress) -> tuple[str, bool]:
        """Create the container, pulling the image if it is missing.

        Returns its id, and whether a container port had to be guessed because the image does not expose it.
        """
        client, host = engine.client(CHANGE_TIMEOUT), dict(self.host)
        check_volumes(engine, host.get("binds", ()))
        if network := host.get("network_mode"):
            host["network_mode"] = allowed_network(engine, network)
        ensure_image(engine, image, progress)
        number = _pin_image(engine, image)
        host["port_bindings"], guessed = self._bindings(engine, image, number)
        with engine_errors(doing=f"to create `{name or image}`"):
            created = client.create_container(
                image,
                command=self.command or None,
                name=name or None,
                environment=self.environment or None,
                labels=self.labels or None,
                ports=[(inner.split("/")[0], inner.split("/")[1]) for inner in host["port_bindings"]] or None,
                host_config=client.create_host_config(**host),
            )
        _check_image_unchanged(engine, str(created["Id"]), image, number)
        return str(created["Id"]), guessed

    def _bindings(self, engine: Engine, image: str, number: str) -> tuple[ports.Bindings, bool]:
        """The ports to publish, and whether one was guessed; the image's ports replace those that were left out."""
        bindings = dict(self.host.get("port_bindings") or {})
        if not self.image_decided:
            return bindings, False
        with engine_errors():
            found = engine.client().inspect_image(number)  # type: ignore[no-untyped-call]  # the stubs leave it out
        offered = ports.exposed_ports(found)
        for one in self.image_decided:
            for inner, outer in ports.to_bindings(ports.resolve_port(one, offered, image)).items():
                bindings[inner] = [*bindings.get(inner, []), *outer]
        return bindings, any(not ports.matching_ports(one, offered) for one in self.image_decided)


def _pin_image(engine: Engine, image: str) -> str:
    """The id of the image to use. An image that was pulled just now is checked against the policy first.

    Raises:
        Conflict: the name refers to another image than when the call was allowed.
        Denied: the policy forbids the pulled image.
    """
    number, key = engine.image_id(image), ("image", image)
    check_unchanged(*key, number)
    if key not in BOUND_IDS.get():
        BOUND_IDS.set({**BOUND_IDS.get(), key: number})
        CHECK_POLICY.get()()
    return number


def _check_image_unchanged(engine: Engine, created: str, image: str, number: str) -> None:
    """Return if the new container was created from this image; otherwise remove it and raise `Conflict`."""
    made_from = str(engine.inspect(created).get("Image") or engine.image_id(image))
    if made_from.removeprefix("sha256:") == number.removeprefix("sha256:"):
        return
    error = Conflict(f"`{image}` now names another image; nothing was started", hint="check the image, then try again")
    remove_unstarted(engine, created, error)
    raise error


def remove_unstarted(engine: Engine, created: str, error: BaseException) -> None:
    """Remove a container that could not start; if that fails too, raise an error that names what is left."""
    try:
        with engine_errors():
            engine.client(CHANGE_TIMEOUT).remove_container(created, force=True)
    except AnvylError as second:
        raise EngineError(
            f"the container `{created[:12]}` was created, could not start, and could not be removed: {second.message}",
            hint=f"remove it once the engine answers again: docker rm -f {created[:12]}",
        ) from error


def parse_volume(typed: str) -> str:
    """Check the form of a volume."""
    pieces = typed.split(":")
    if not 2 <= len(pieces) <= 3 or not all(pieces) or not pieces[1].startswith("/"):
        raise InvalidInput(f"`{typed}` is not a volume", hint="write it like /data:/data:ro or name:/data")
    return typed


def parse_pair(typed: str, what: str) -> str:
    """Check the form of a `KEY=value`."""
    if typed.startswith("=") or "=" not in typed:
        raise InvalidInput(f"`{typed}` is not a valid entry of {what}", hint="write it like KEY=value")
    return typed


def _parse_label(typed: str) -> tuple[str, str]:
    name, _, value = parse_pair(typed, "labels").partition("=")
    return name, value


def _parse_choice(typed: str, allowed: Sequence[str], what: str) -> str:
    if typed not in allowed:
        raise InvalidInput(f"`{typed}` is not a {what} policy", hint=f"use {', '.join(allowed)}")
    return typed


def parse_memory(typed: str) -> int:
    """Parse a memory limit into bytes."""
    parsed = text.parse_size(typed)
    if parsed is None or parsed < 6 * 1024**2:
        raise InvalidInput(f"`{typed}` is not a valid amount of memory", hint="write it like 512m; at least 6m")
    return parsed


def parse_cpus(typed: str) -> int:
    """Parse a number of cpus into billionths."""
    try:
        number = float(typed)
    except ValueError:
        number = 0.0
    if not 0.01 <= number <= 1024:
        raise InvalidInput(f"`{typed}` is not a valid number of cpus", hint="write it like 1.5")
    return int(number * 1e9)


def split_command(command: str) -> list[str]:
    """Split a command into words; a blank one has none."""
    return commands.split(command) if command.strip() else []
