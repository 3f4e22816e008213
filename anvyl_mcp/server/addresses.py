"""Where other machines find this one."""

from __future__ import annotations

import ipaddress
import socket

import psutil

VIRTUAL = ("docker", "br-", "veth", "virbr", "cni", "flannel", "podman")
"""Interfaces that lead to containers and virtual machines, not to other hosts."""


def join_addresses(served: str) -> list[str]:
    """Addresses for a join code, the likeliest first: `served` itself, or this machine's own when all are served."""
    if served not in ("0.0.0.0", "::"):
        return [served]
    found = [address for name, address in _interfaces() if not name.startswith(VIRTUAL)]
    return sorted(found, key=lambda address: (address != _outbound_address(), ":" in address))[:4]


def default_address() -> str:
    """The address to serve when nobody named one: the one that leads outward; empty when there is none."""
    outward = _outbound_address()
    if outward:
        return outward
    return next((address for name, address in _interfaces() if not name.startswith(VIRTUAL)), "")


def _outbound_address() -> str:
    """The address that a packet to another network would carry; nothing is sent to find it."""
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
