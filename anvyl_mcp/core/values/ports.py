"""Ports to publish, as people type them: `8080:80`, `127.0.0.1:53:53/udp`, or `8080` for the port of the image."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Conflict, InvalidInput

PROTOCOLS = ("tcp", "udp", "sctp")
Bindings = dict[str, list[tuple[str, str]]]
"""Ports of the container, like `80/tcp`, with the addresses and ports of the host that lead to them."""


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of the host, on one address or on all, and the port of the container that it leads to."""

    address: str
    host_port: str
    container_port: str
    protocol: str


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the host alone; `protocol` is empty when none was typed."""

    host_port: str
    protocol: str


def parse_port(typed: str) -> PortMapping | HostPort:
    """`[address:]host_port:container_port[/protocol]`, or `host_port[/protocol]`.

    Raises:
        InvalidInput: it is neither.
    """
    rest, _, protocol = typed.partition("/")
    address, _, pair = rest.rpartition("]:") if rest.startswith("[") else ("", "", rest)
    pieces = pair.split(":")
    if len(pieces) == 3:
        address, *pieces = pieces
    address = address.lstrip("[")
    valid = all(piece.isdecimal() and 0 < int(piece) <= 65535 for piece in pieces) and len(pieces) <= 2
    if not valid or (protocol and protocol not in PROTOCOLS) or not _is_address(address):
        raise InvalidInput(f"`{typed}` is not a port to publish", hint="write it like 8080:80 or 127.0.0.1:8080:80/udp")
    if len(pieces) == 1 and not address:
        return HostPort(pieces[0], protocol)
    return PortMapping(address, pieces[0], pieces[-1], protocol or "tcp")


def to_bindings(published: Iterable[PortMapping]) -> Bindings:
    """In the engine's own form."""
    found: Bindings = {}
    for port in published:
        found.setdefault(f"{port.container_port}/{port.protocol}", []).append((port.address, port.host_port))
    return found


def exposed_ports(image: Mapping[str, Any]) -> list[str]:
    """The ports that an inspected image says it listens on, like `80/tcp`, in order."""
    config = image.get("Config")
    found = config.get("ExposedPorts") if isinstance(config, Mapping) else None
    return sorted((str(one) for one in found or ()), key=lambda one: (len(one.partition("/")[0]), one))


def format_port(port: PortMapping) -> str:
    """A port without an address as it may be typed: `8080:80`, `53:53/udp`."""
    return f"{port.host_port}:{port.container_port}{'' if port.protocol == 'tcp' else f'/{port.protocol}'}"


def describe_port(typed: str, image: str) -> str:
    """What a person is shown of a port: `8080->80`, or to which one of the image it will lead."""
    try:
        port = parse_port(typed)
    except InvalidInput:
        return text.format_value(typed)
    if isinstance(port, HostPort):
        return f"{port.host_port}->the port that {text.format_value(image)} exposes"
    address = f"{port.address}:" if port.address else ""
    return f"{address}{format_port(port).replace(':', '->')}"


def matching_ports(port: HostPort, offered: Collection[str]) -> list[tuple[str, str]]:
    """The ports of an image, as number and protocol, that have the protocol that was typed."""
    pairs = [(number, protocol or "tcp") for number, _, protocol in (one.partition("/") for one in offered)]
    return [(number, protocol) for number, protocol in pairs if port.protocol in ("", protocol)]


def resolve_port(port: HostPort, offered: Collection[str], image: str) -> list[PortMapping]:
    """What a port of the host leads to in containers of an image.

    That is the port of the same number, or the only one; the same number on every port when the image names none.

    Raises:
        Conflict: the image has several.
    """
    candidates = matching_ports(port, offered)
    chosen = [one for one in candidates if one[0] == port.host_port] or candidates
    found = [PortMapping("", port.host_port, *one) for one in chosen or [(port.host_port, port.protocol or "tcp")]]
    if len({one.container_port for one in found}) > 1:
        raise Conflict(
            f"`{image}` listens on several ports: which one should {port.host_port} lead to?",
            hint=f"write {_join_choices([f'`{format_port(one)}`' for one in found])}",
        )
    return found


def _join_choices(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _is_address(typed: str) -> bool:
    """Whether a port can be bound to it; nothing is every address."""
    try:
        return not typed or bool(ipaddress.ip_address(typed))
    except ValueError:
        return False
