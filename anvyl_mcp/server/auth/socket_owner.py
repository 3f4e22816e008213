"""Owner and cgroup of the peer socket of a local TCP connection, queried from the kernel (sock_diag)."""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from dataclasses import dataclass

Address = tuple[str, int]

# linux/sock_diag.h and linux/inet_diag.h
_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST = struct.Struct("=IHHII BBBBI")
_REPLY = struct.Struct("=xBxx 4s32x 4xII 12xII")
"""Fields of struct inet_diag_msg: state, ports, cookie (two words), uid, inode."""
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_CGROUP_ID = 21
_ANY_STATE = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
OPEN_STATES = frozenset({1, 4, 5, 8})
"""Established, or closing on one side. In other states the kernel may report uid 0 for a socket without holder."""


@dataclass(frozen=True, slots=True)
class PeerSocket:
    """A client's socket. Inode and cookie together are never reused, unlike its port.

    `cgroup` is the id of the cgroup in which it was created, not that of its holder; 0 if the kernel does not report it
    (before 5.8, or without cgroup v2).
    """

    uid: int
    inode: int
    cookie: int = 0
    cgroup: int = 0


def find(peer: Address, own: Address) -> PeerSocket | None:
    """Find the client's socket of the connection from `peer` to `own`; None if it is closed or cannot be queried."""
    if sys.platform != "linux":
        return None
    try:
        # A mapped address is IPv4 on the wire, so the kernel finds the socket by its IPv4 address.
        family, source, port = _plain(peer)
        _, destination, own_port = _plain(own)
        return _ask_kernel(family, (source, port), (destination, own_port))
    except (OSError, ValueError, struct.error):
        return None


def _plain(address: Address) -> tuple[int, bytes, int]:
    parsed = ipaddress.ip_address(address[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    parsed = mapped or parsed
    return (socket.AF_INET if parsed.version == 4 else socket.AF_INET6), parsed.packed, address[1]


def _ask_kernel(family: int, peer: tuple[bytes, int], own: tuple[bytes, int]) -> PeerSocket | None:
    source, destination = peer[0].ljust(16, b"\0"), own[0].ljust(16, b"\0")
    ports = struct.pack("!HH", peer[1], own[1])
    wanted = ports + source + destination + struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
    length = _REQUEST.size + len(wanted)
    request = _REQUEST.pack(length, _BY_FAMILY, 1, 0, 0, family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + wanted
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as netlink:
        netlink.settimeout(0.5)
        netlink.send(request)
        reply = netlink.recv(8192)
    length, kind, *_ = _HEADER.unpack_from(reply)
    if kind != _BY_FAMILY:
        return None
    state, found_ports, low, high, uid, inode = _REPLY.unpack_from(reply, _HEADER.size)
    # For a closed socket the kernel may return one that listens on the same port, of another program.
    if state not in OPEN_STATES or found_ports != ports or not inode:
        return None
    return PeerSocket(uid, inode, low | high << 32, _cgroup_in(reply[_HEADER.size + _REPLY.size : length]))


def _cgroup_in(attributes: bytes) -> int:
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _CGROUP_ID:
            return int.from_bytes(attributes[_ATTRIBUTE.size : length], sys.byteorder)
        attributes = attributes[max(length + 3 & ~3, _ATTRIBUTE.size) :]
    return 0
