"""The other end of a TCP connection on this machine: whose socket it is, and where the process lives that holds it."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path

Address = tuple[str, int]

# linux/sock_diag.h and linux/inet_diag.h
_SOCK_DIAG = 4
_BY_FAMILY = 20
_ERROR = 2
_REQUEST = struct.Struct("=IHHII BBBBI")
_REPLY = struct.Struct("=xBxx 4s32x 4xII 12xII")
"""Of struct inet_diag_msg: state, ports, cookie (two words), uid, inode."""
_HEADER = struct.Struct("=IHHII")
_ANY_STATE = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
_HELD_STATES = frozenset({1, 4, 5, 8})
"""Established, and closing on one side. Without a holder the kernel reports uid 0, so other states prove nothing."""

FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO: the namespace that sees every process of the machine."""


@dataclass(frozen=True, slots=True)
class PeerSocket:
    """A client's socket. Inode and cookie together are never used again, unlike its port."""

    uid: int
    inode: int
    cookie: int = 0


class PeerSockets:
    """Finds the socket at the other end of a loopback connection."""

    def __init__(self) -> None:
        self._kernel_answers = False

    def find(self, peer: Address, own: Address) -> PeerSocket | None:
        """The client's socket of the connection from `peer` to `own`; None when nobody holds it, or nothing tells."""
        if sys.platform != "linux":
            return None
        try:
            # A mapped address is IPv4 on the wire, and the kernel finds the socket by that.
            family, source, port = _plain(peer)
            _, destination, own_port = _plain(own)
            found = _ask_kernel(family, (source, port), (destination, own_port))
            self._kernel_answers = self._kernel_answers or found is not None
            return found
        except LookupError:
            # "No such socket", which a kernel without tcp_diag says of all of them.
            return None if self._kernel_answers else _from_table(peer, own)
        except OSError:
            return _from_table(peer, own)
        except ValueError:
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
    _, kind, *_ = _HEADER.unpack_from(reply)
    if kind == _ERROR:
        (code,) = struct.unpack_from("=i", reply, _HEADER.size)
        if -code == errno.ENOENT:
            raise LookupError
        raise OSError(-code, os.strerror(-code))
    if kind != _BY_FAMILY:
        raise OSError(errno.EPROTO, "an unknown answer")
    state, found_ports, low, high, uid, inode = _REPLY.unpack_from(reply, _HEADER.size)
    # When the socket is gone the kernel may answer with one that listens on its port: somebody else's.
    if state not in _HELD_STATES or found_ports != ports or not inode:
        return None
    return PeerSocket(uid, inode, low | high << 32)


def _from_table(peer: Address, own: Address) -> PeerSocket | None:
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/self/net/{table}").read_text(encoding="ascii").splitlines()[1:]
            local, remote = (_in_table(address, wide=table == "tcp6") for address in (peer, own))
        except (OSError, ValueError):
            continue
        for line in lines:
            fields = line.split()
            held = int(fields[3], 16) in _HELD_STATES and fields[9] != "0"
            if held and fields[1] == local and fields[2] == remote:
                return PeerSocket(int(fields[7]), int(fields[9]))
    return None


def _in_table(address: Address, *, wide: bool) -> str:
    """An address as /proc/net/tcp{,6} writes it: 32-bit words in the machine's byte order."""
    _, packed, port = _plain(address)
    if wide and len(packed) == 4:
        packed = b"\0" * 10 + b"\xff\xff" + packed
    if wide != (len(packed) == 16):
        raise ValueError(address[0])
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return f"{''.join(f'{word:08X}' for word in words)}:{port:04X}"


def held_in_our_namespace(
    found: PeerSocket, *, seconds: float, lately: MutableMapping[int, str] | None = None
) -> bool | None:
    """Whether a process of our own PID namespace holds the socket; None when that could not be seen in time.

    `lately`: the process of each user that held the last one, to be looked at first.
    """
    lately = {} if lately is None else lately
    try:
        ours = _link("/proc/self/ns/pid")
        everything_seen = True
        wanted, end = f"socket:[{found.inode}]", time.monotonic() + seconds
        for pid in _likely_first(found.uid, lately.get(found.uid)):
            if time.monotonic() > end:
                return None
            holds = _holds(pid, wanted)
            if holds:
                lately[found.uid] = pid
                return _link(f"/proc/{pid}/ns/pid") == ours
            everything_seen = everything_seen and holds is not None
        return not everything_seen and in_first_namespace() and nobody_else_on_our_network()
    except OSError:
        return None


def in_first_namespace() -> bool:
    """Whether this process sees every process of the machine."""
    try:
        return _link("/proc/self/ns/pid") == FIRST_PID_NAMESPACE
    except OSError:
        return False


def _link(path: str) -> str:
    # Path.readlink makes an object of each of thousands of descriptors.
    return os.readlink(path)  # noqa: PTH115


def _pids() -> Iterator[str]:
    return (name for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208


def _likely_first(uid: int, lately: str | None) -> Iterator[str]:
    """Processes of that user first, and of those the newest: most callers are commands that were just started."""
    if lately is not None:
        yield lately

    def unlikely(pid: str) -> tuple[bool, int]:
        try:
            return os.stat(f"/proc/{pid}").st_uid != uid, -int(pid)  # noqa: PTH116
        except OSError:
            return True, 0

    yield from sorted(_pids(), key=unlikely)


def _holds(pid: str, wanted: str) -> bool | None:
    """Whether a process has the socket open; None when we may not look."""
    folder = f"/proc/{pid}/fd"
    try:
        for name in os.listdir(folder):  # noqa: PTH208
            try:
                if _link(f"{folder}/{name}") == wanted:
                    return True
            except FileNotFoundError:
                continue
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):
        return False
    return False


def nobody_else_on_our_network() -> bool:
    """Whether no process of another PID namespace shares our network: then no caller can be one.

    For callers whose descriptors we may not see: other users', when the server is not root. Asked only in the first
    namespace, which sees all processes; a container without privileges cannot leave its host's network again.
    """
    network = os.stat("/proc/self/net/dev").st_ino  # noqa: PTH116
    if not Path("/proc/1/status").exists():
        return False
    return not any(_other_namespace(pid) and _on_network(pid, network) for pid in _pids())


def _other_namespace(pid: str) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    gone = fields.get("State", "").startswith("Z") and fields.get("Threads", "").strip() == "1"
    return not gone and len(fields.get("NSpid", "").split()) != 1


def _on_network(pid: str, network: int) -> bool:
    """Readable without rights over the process, unlike its ns/net; what cannot be told counts as yes."""
    try:
        return os.stat(f"/proc/{pid}/net/dev").st_ino == network  # noqa: PTH116
    except OSError:
        return Path(f"/proc/{pid}").exists()
