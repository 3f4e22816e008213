"""Two machines' worth of network: two network namespaces joined by one cable, for what loopback cannot show."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

ADDRESSES = ("192.168.77.10", "192.168.77.11")
"""Of the host that is served, and of the one that calls."""


class Lan:
    """Programs started with `prefix` are on the serving machine, at `address`; with `far`, on the other one."""

    def __init__(self, serving: int, calling: int) -> None:
        self.address, self.far_address = ADDRESSES
        self.prefix = inside(serving)
        self.far = inside(calling)

    def run(self, script: str, *arguments: str) -> Any:
        """Run a Python script on the other machine; what it prints is JSON."""
        done = subprocess.run(
            [*self.far, sys.executable, "-c", script, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            timeout=60,
            check=True,
        )
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def lan() -> Iterator[Lan]:
    """The network; making one takes root."""
    if problem := none_here():
        pytest.skip(problem)
    with ExitStack() as stack:
        serving, calling = stack.enter_context(namespace()), stack.enter_context(namespace())
        ip(serving, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(calling))
        for holder, address in zip((serving, calling), ADDRESSES, strict=True):
            ip(holder, "link", "set", "lo", "up")
            ip(holder, "address", "add", f"{address}/24", "dev", "cable")
            ip(holder, "link", "set", "cable", "up")
        yield Lan(serving, calling)


def none_here() -> str:
    """Why there can be no networks of the tests' own here; empty when there can."""
    missing = [program for program in ("unshare", "nsenter", "ip") if not shutil.which(program)]
    if os.getuid() == 0 and not missing:
        return ""
    return "network namespaces of the tests' own need root and the programs unshare, nsenter and ip"


@contextmanager
def namespace() -> Iterator[int]:
    """A new network namespace, as the id of a process that lives in it."""
    # It ends by itself when this process does, however that ends.
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo ready && exec cat"],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        assert holder.stdout.readline() == "ready\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


def inside(holder: int) -> list[str]:
    """What to put before a command so that it runs there."""
    return ["nsenter", f"--net=/proc/{holder}/ns/net"]


def ip(holder: int, *arguments: str) -> None:
    """Run `ip` there."""
    subprocess.run([*inside(holder), "ip", *arguments], check=True, capture_output=True)
