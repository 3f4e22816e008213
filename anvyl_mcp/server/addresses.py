"""Network addresses at which other machines reach this host."""

from __future__ import annotations

import ipaddress
import socket

import psutil

VIRTUAL = ("docker", "br-", "veth", "virbr", "cni", "flannel", "podman")
"""Prefixes of interfaces to containers and virtual machines."""


def join_addresses(served: str) -> list[str]:
    """Addresses for a join code, most likely first: `served` itself, or those of this machine if it is a wildcard."""
    if served not in ("0.0.0.0", "::"):
        return [served]
    found = [address for name, address in _interfaces() if not name.startswith(VIRTUAL)]
    return sorted(found, key=lambda address: (address != _outbound_address(), ":" in address))[:4]


def default_address() -> str:
    """The default address to serve: the outbound one, else that of any interface; empty if there is none."""
    outbound = _outbound_address()
    if outbound:
        return outbound
    return next((address for name, address in _interfaces() if not name.startswith(VIRTUAL)), "")


def _outbound_address() -> str:
    """The source address of packets to other networks, found without sending any; empty if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        address: str = probe.getsockname()[0]
    return "" if ipaddress.ip_address(address).is_loopback else address


def _interfaces() -> list[tuple[str, str]]:
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if one.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            parsed = ipaddress.ip_address(one.address.partition("%")[0])
            if not parsed.is_loopback and not parsed.is_link_local:
                found.append((name, str(parsed)))
    return found
