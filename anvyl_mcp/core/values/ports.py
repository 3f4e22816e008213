"""Parse ports to publish: `8080:80`, `127.0.0.1:53:53/udp`, or `8080` for the port that the image exposes."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Conflict, InvalidInput

PROTOCOLS = ("tcp", "udp", "sctp")
Bindings = dict[str, list[tuple[str, str]]]
"""Container port, like `80/tcp` → addresses and ports of the host, in the format of the engine."""


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of the host, mapped to a port of a container. An empty `address` is every address."""

    address: str
    host_port: str
    container_port: str
    protocol: str


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the host without a container port; `protocol` is empty if omitted."""

    host_port: str
    protocol: str


def parse_port(typed: str) -> PortMapping | HostPort:
    """Parse `[address:]host_port:container_port[/protocol]`, or `host_port[/protocol]`.

    Raises:
        InvalidInput: the text has another format.
    """
    rest, _, protocol = typed.partition("/")
    address, _, pair = rest.rpartition("]:") if rest.startswith("[") else ("", "", rest)
    pieces = pair.split(":")
    if len(pieces) == 3:
        address, *pieces = pieces
    address = address.lstrip("[")
    valid = all(piece.isdecimal() and 0 < int(piece) <= 65535 for piece in pieces) and len(pieces) <= 2
    if not valid or (protocol and protocol not in PROTOCOLS) or not _is_address(address):
        raise InvalidInput(f"`{typed}` is not a port mapping", hint="use the format 8080:80 or 127.0.0.1:8080:80/udp")
    if len(pieces) == 1 and not address:
        return HostPort(pieces[0], protocol)
    return PortMapping(address, pieces[0], pieces[-1], protocol or "tcp")


def to_bindings(published: Iterable[PortMapping]) -> Bindings:
    """Convert mappings to the format of the engine."""
    found: Bindings = {}
    for port in published:
        found.setdefault(f"{port.container_port}/{port.protocol}", []).append((port.address, port.host_port))
    return found


def exposed_ports(image: Mapping[str, Any]) -> list[str]:
    """Return the ports that an image exposes, like `80/tcp`, sorted by number."""
    config = image.get("Config")
    found = config.get("ExposedPorts") if isinstance(config, Mapping) else None
    return sorted((str(one) for one in found or ()), key=lambda one: (len(one.partition("/")[0]), one))


def format_port(port: PortMapping) -> str:
    """Format a mapping without its address: `8080:80`, `53:53/udp`."""
    return f"{port.host_port}:{port.container_port}{'' if port.protocol == 'tcp' else f'/{port.protocol}'}"


def describe_port(typed: str, image: str) -> str:
    """Describe a typed port for a person: `8080->80`, or `8080->the port that nginx exposes`."""
    try:
        port = parse_port(typed)
    except InvalidInput:
        return text.format_value(typed)
    if isinstance(port, HostPort):
        return f"{port.host_port}->the port that {text.format_value(image)} exposes"
    address = f"{port.address}:" if port.address else ""
    return f"{address}{format_port(port).replace(':', '->')}"


def matching_ports(port: HostPort, offered: Collection[str]) -> list[tuple[str, str]]:
    """Return number and protocol of the exposed ports that have the protocol of `port`, if it has one."""
    pairs = [(number, protocol or "tcp") for number, _, protocol in (one.partition("/") for one in offered)]
    return [(number, protocol) for number, protocol in pairs if port.protocol in ("", protocol)]


def resolve_port(port: HostPort, offered: Collection[str], image: str) -> list[PortMapping]:
    """Map a port of the host to the exposed port with the same number, or else to the only exposed one.

    If the image exposes none, the container port has the same number.

    Raises:
        Conflict: the image exposes several other ports.
    """
    candidates = matching_ports(port, offered)
    chosen = [one for one in candidates if one[0] == port.host_port] or candidates
    found = [PortMapping("", port.host_port, *one) for one in chosen or [(port.host_port, port.protocol or "tcp")]]
    if len({one.container_port for one in found}) > 1:
        raise Conflict(
            f"`{image}` exposes several ports: which one should {port.host_port} map to?",
            hint=f"use {_join_choices([f'`{format_port(one)}`' for one in found])}",
        )
    return found


def _join_choices(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _is_address(typed: str) -> bool:
    """Whether a port can be bound to this address; empty is every address."""
    try:
        return not typed or bool(ipaddress.ip_address(typed))
    except ValueError:
        return False
