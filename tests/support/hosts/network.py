"""Two network namespaces joined by a veth pair, for what loopback cannot test."""

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
"""Addresses of the serving and of the calling machine."""


class Lan:
    """Prefix a command with `prefix` to run it on the serving machine, at `address`; with `far`, on the other one."""

    def __init__(self, serving: int, calling: int) -> None:
        self.address, self.far_address = ADDRESSES
        self.prefix = inside(serving)
        self.far = inside(calling)

    def run(self, script: str, *arguments: str) -> Any:
        """Run a Python script on the other machine and parse its output as JSON."""
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
    """The network of this session; needs root."""
    if problem := missing_requirements():
        pytest.skip(problem)
    with ExitStack() as stack:
        serving, calling = stack.enter_context(namespace()), stack.enter_context(namespace())
        ip(serving, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(calling))
        for holder, address in zip((serving, calling), ADDRESSES, strict=True):
            ip(holder, "link", "set", "lo", "up")
            ip(holder, "address", "add", f"{address}/24", "dev", "cable")
            ip(holder, "link", "set", "cable", "up")
        yield Lan(serving, calling)


def missing_requirements() -> str:
    """What network namespaces need that is missing here; empty if nothing is."""
    missing = [program for program in ("unshare", "nsenter", "ip") if not shutil.which(program)]
    if os.getuid() == 0 and not missing:
        return ""
    return "network namespaces need root and the programs unshare, nsenter and ip"


@contextmanager
def namespace() -> Iterator[int]:
    """Create a network namespace and yield the pid of a process in it."""
    # It exits when this process does: `cat` reads the end of its input.
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
    """Command prefix that runs a program in that namespace."""
    return ["nsenter", f"--net=/proc/{holder}/ns/net"]


def ip(holder: int, *arguments: str) -> None:
    """Run `ip` in that namespace."""
    subprocess.run([*inside(holder), "ip", *arguments], check=True, capture_output=True)
