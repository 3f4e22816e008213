"""Check the addresses of hosts to add."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.peers.connection.transports import base_url

FORBIDDEN = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "255.255.255.255")))
"""Cloud metadata services (besides the link-local 169.254.169.254) and the broadcast address."""
_LIKE = "write it like 192.168.1.5 or nas.lan"


def url_of(host: str, port: int, *, secure: bool = False) -> str:
    """Return the URL for a bare address.

    Raises:
        InvalidInput: it is not a single address, or a host cannot have it.
    """
    written = host.strip()
    try:
        written = f"[{ipaddress.IPv6Address(written.strip('[]'))}]"
    except ValueError:
        if not set(written).isdisjoint("/:@?#%[] \\"):
            raise InvalidInput("`host_ip` is more than an address", hint=_LIKE) from None
    return check_address(base_url(f"{'https' if secure else 'http'}://{written}:{port}"))


def check_address(url: str) -> str:
    """Return the URL if a host can have that address.

    Raises:
        InvalidInput: the address is unspecified, link-local, multicast, or a cloud metadata service.
    """
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        last = host.rstrip(".").rpartition(".")[2]
        if last.isdecimal() or last.startswith("0x"):
            # The system accepts `127.1` and `0x7f000001` as IP addresses, which would bypass the checks below.
            raise InvalidInput(f"`{host}` is not a dotted IP address", hint=_LIKE) from None
        return url
    address = getattr(address, "ipv4_mapped", None) or address
    if address in FORBIDDEN or address.is_unspecified or address.is_link_local or address.is_multicast:
        raise InvalidInput(f"`{host}` cannot be the address of a host", hint=_LIKE)
    return url
