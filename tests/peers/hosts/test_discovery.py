"""Hosts that announce themselves on the local network are found by address, and are not trusted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anvyl_mcp.peers.hosts.discovery import SERVICE, Announcement
from anvyl_mcp.peers.hosts.registry import Peer
from tests.support.hosts.network import Lan, lan
from tests.support.hosts.nodes import ANVYL_MCP, CommandResult, anvyl, run_program, running_node, write_hosts_file

__all__ = ["lan"]

STRANGER = """
import asyncio, sys
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf
async def main():
    network = AsyncZeroconf()
    for number, (name, address) in enumerate([("evil", "127.0.0.1"), ("good", "192.168.77.99")]):
        info = AsyncServiceInfo(
            sys.argv[1], f"stranger{number}.{sys.argv[1]}", port=4200, parsed_addresses=[address],
            properties={"name": "\\x1b[31mNas\\n" + name, "version": "9.9 rm -rf"}, server=f"s{number}.local.",
        )
        await (await network.async_register_service(info))
    print("announced", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def looked(lan: Lan, *flags: str) -> CommandResult:
    return run_program("hosts", "discover", "--seconds", "2", *flags, prefix=lan.far, DOCKER_HOST="unix:///nonexistent")


@contextmanager
def stranger(lan: Lan) -> Iterator[None]:
    started = [*lan.prefix, sys.executable, "-c", STRANGER, SERVICE]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "announced\n"
            yield
        finally:
            other.kill()


def test_an_open_host_is_discovered_and_recognized_after_it_was_added(lan: Lan, tmp_path: Path) -> None:
    home = tmp_path / "beta"
    with running_node(
        "beta", home, prefix=lan.prefix, ANVYL_ANNOUNCE="true", DOCKER_HOST="unix:///nonexistent"
    ) as node:
        closed = looked(lan, "--json")
        open_it = ("invite", "--host", lan.address, "--json")
        invited = run_program(*open_it, program=ANVYL_MCP, prefix=lan.prefix, ANVYL_HOME=str(home))
        shown = looked(lan)
        found = looked(lan, "--json").json["hosts"]
        file = tmp_path / "hosts.toml"
        assert not file.exists(), "looking stores nothing"
        assert run_program("hosts", "add", invited.json["code"], prefix=lan.far).code == 0
        again = looked(lan, "--json").json["hosts"]
        assert node.stop() == 0
    gone = looked(lan, "--json")

    assert closed.json == gone.json == {"hosts": {}, "error": None}
    assert list(found) == ["beta"] and not found["beta"]["known"]
    assert found["beta"]["url"] == f"https://{lan.address}:{node.port}"
    assert found["beta"]["version"] and "anvyl hosts add" in found["beta"]["hint"]
    assert "beta" in shown.out and "anvyl-mcp invite" in shown.err
    assert again["beta"]["known"] and again["beta"]["known_as"] == "beta"


def test_announcements_are_sanitized_and_loopback_addresses_ignored(lan: Lan) -> None:
    with stranger(lan):
        found = looked(lan, "--json")

    assert found.json["hosts"].keys() == {"nas-good"}
    assert found.json["hosts"]["nas-good"]["version"] == "9.9rm-rf"
    assert "\\u001b" not in found.out and "\x1b" not in found.out


def test_a_host_is_recognized_only_by_address_and_port() -> None:
    peers = {
        "here": Peer("here", "memory:"),
        "nas": Peer("nas", "https://192.168.1.5:4200"),
        "six": Peer("six", "https://[fd00::5]:4200"),
    }

    def known(url: str, own: tuple[str, ...] = ()) -> str:
        return Announcement("nas", (url,), "").known_as(peers, own)

    assert known("https://192.168.1.5:4200") == "nas"
    assert known("https://[fd00:0::5]:4200") == "six"
    assert known("https://192.168.1.5:4300") == known("https://192.168.1.6:4200") == ""
    assert known("https://192.168.1.6:4200", ("https://192.168.1.6:4200",)) == "here"


def test_without_the_extra_the_error_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    write_hosts_file("nas", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    monkeypatch.setitem(sys.modules, "zeroconf.asyncio", None)

    done = anvyl("hosts", "discover")
    document = anvyl("hosts", "discover", "--json")

    assert done.code == 1 and "'anvyl-mcp[discovery]'" in done.err
    assert json.loads(document.out)["error"]["code"] == "config_invalid"


@pytest.mark.parametrize("seconds", ["0", "-1", "61", "nan"])
def test_an_invalid_duration_is_rejected(seconds: str) -> None:
    assert anvyl("hosts", "discover", "--seconds", seconds).code == 2
