"""Delay packets, like `tc netem`, on kernels that are built without it.

`python delay_packets.py QUEUE MILLISECONDS` reads an NFQUEUE of its network namespace, accepts each packet after the
delay, and prints `ready` when it listens. The packets stay in the kernel; only their ids are copied.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator

NETFILTER, QUEUE_MESSAGES = 12, 3
PACKET, VERDICT, CONFIG = 0, 1, 2
COMMAND, PARAMETERS, LONGEST = 1, 2, 3
HEADER, ACCEPT = 1, 1
FORCE_RECEIVE_BUFFER, NETLINK, NO_BUFFER_ERRORS = 33, 270, 5


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def message(kind: int, queue: int, payload: bytes) -> bytes:
    body = struct.pack("=BBH", 0, 0, socket.htons(queue)) + payload
    return struct.pack("=IHHII", 16 + len(body), QUEUE_MESSAGES << 8 | kind, 1, 0, 0) + body


def packets(data: bytes) -> Iterator[int]:
    """Ids of the packets in one read from the kernel."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        position, end = offset + 20, offset + length
        while kind == QUEUE_MESSAGES << 8 | PACKET and position + 4 <= end:
            size, name = struct.unpack_from("=HH", data, position)
            if name & 0x7FFF == HEADER:
                yield struct.unpack_from("!I", data, position + 4)[0]
                break
            position += (size + 3) & ~3
        if length < 16:
            return
        offset += (length + 3) & ~3


def main(queue: int, seconds: float) -> None:
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER)
    kernel.setsockopt(socket.SOL_SOCKET, FORCE_RECEIVE_BUFFER, 1 << 20)
    kernel.setsockopt(NETLINK, NO_BUFFER_ERRORS, 1)
    kernel.bind((0, 0))
    for command, family in ((4, socket.AF_INET), (3, socket.AF_INET), (3, socket.AF_INET6), (1, 0)):
        kernel.send(message(CONFIG, queue, attribute(COMMAND, struct.pack("!BBH", command, 0, family))))
    kernel.send(message(CONFIG, queue, attribute(PARAMETERS, struct.pack("!IB", 0, 1))))
    kernel.send(message(CONFIG, queue, attribute(LONGEST, struct.pack("!I", 65536))))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    held: deque[tuple[float, int]] = deque()
    while True:
        while held and held[0][0] <= time.monotonic():
            _, number = held.popleft()
            kernel.send(message(VERDICT, queue, attribute(2, struct.pack("!II", ACCEPT, number))))
        wait = max(held[0][0] - time.monotonic(), 0) if held else None
        if select.select([kernel], [], [], wait)[0]:
            held += [(time.monotonic() + seconds, number) for number in packets(kernel.recv(1 << 20))]


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]) / 1000)
