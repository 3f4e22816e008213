"""Addresses that a host may be added by."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.peers.connection.transports import base_url

FORBIDDEN = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "255.255.255.255")))
"""Where clouds tell a machine its secrets, beside the link-local 169.254.169.254; and everybody at once."""
_LIKE = "write it like 192.168.1.5 or nas.lan"


def url_of(host: str, port: int, *, secure: bool = False) -> str:
    """The URL of a host by its bare address.

    Raises:
        InvalidInput: it is no address, or more than one, or none that a host may have.
    """
    written = host.strip()
    try:
        written = f"[{ipaddress.IPv6Address(written.strip('[]'))}]"
    except ValueError:
        if not set(written).isdisjoint("/:@?#%[] \\"):
            raise InvalidInput("`host_ip` is more than an address", hint=_LIKE) from None
    return check_address(base_url(f"{'https' if secure else 'http'}://{written}:{port}"))


def check_address(url: str) -> str:
    """The URL, if a host may have that address.

    Raises:
        InvalidInput: it belongs to no host: unspecified, link-local, a group, or where a cloud keeps secrets.
    """
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        last = host.rstrip(".").rpartition(".")[2]
        if last.isdecimal() or last.startswith("0x"):
            # `127.1` and `0x7f000001` are IP addresses to the system, in spellings that hide which.
            raise InvalidInput(f"`{host}` is an address in a spelling of old", hint=_LIKE) from None
        return url
    address = getattr(address, "ipv4_mapped", None) or address
    if address in FORBIDDEN or address.is_unspecified or address.is_link_local or address.is_multicast:
        raise InvalidInput(f"`{host}` is an address that no host has", hint=_LIKE)
    return url
