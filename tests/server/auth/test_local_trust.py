"""Identification of loopback callers by the kernel; trusted only from our own process namespace."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest

from anvyl_mcp.core.errors import ConfigInvalid
from anvyl_mcp.server.auth import caller_process, socket_owner
from anvyl_mcp.server.auth.local_trust import (
    UNIDENTIFIED,
    ClientConnection,
    LocalToken,
    LoopbackCaller,
    LoopbackTrust,
    engine_socket_members,
)
from anvyl_mcp.server.auth.socket_owner import Address, find
from tests.support.hosts.nodes import PYTHON

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who calls")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes other users and makes namespaces")
NOBODY = 65534
pytestmark = [linux, pytest.mark.alone]


@contextmanager
def connected(
    listens: str, connects: str = "", *, family: int = socket.AF_INET, client_family: int | None = None
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection: client, server."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((listens, 0))
        listener.listen()
        client = stack.enter_context(socket.socket(client_family or family))
        client.connect((connects or listens, listener.getsockname()[1]))
        served = stack.enter_context(listener.accept()[0])
        yield client, served


def ends(served: socket.socket) -> tuple[Address, Address]:
    """Addresses as a server sees them: the peer's and its own."""
    return served.getpeername()[:2], served.getsockname()[:2]


def judged(served: socket.socket, loopback: LoopbackTrust | None = None) -> LoopbackCaller:
    """Return the caller that the server identifies at the other end."""
    return anyio.run((loopback or LoopbackTrust()).check, *ends(served), ClientConnection(accepted=served))


WAYS = {
    "IPv4": ("127.0.0.1", "", socket.AF_INET, socket.AF_INET),
    "another loopback address": ("127.0.0.1", "127.0.0.1", socket.AF_INET, socket.AF_INET),
    "IPv6": ("::1", "", socket.AF_INET6, socket.AF_INET6),
    "IPv4 to a server for both": ("::", "127.0.0.1", socket.AF_INET6, socket.AF_INET),
    "mapped to an IPv4 server": ("127.0.0.1", "::ffff:127.0.0.1", socket.AF_INET, socket.AF_INET6),
    "mapped on both sides": ("::", "::ffff:127.0.0.1", socket.AF_INET6, socket.AF_INET6),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_owner_of_the_peer_socket_is_found(way: str) -> None:
    listens, connects, family, client_family = WAYS[way]
    with connected(listens, connects, family=family, client_family=client_family) as (client, served):
        found = find(*ends(served))

        assert found is not None
        assert (found.uid, found.inode) == (os.geteuid(), os.fstat(client.fileno()).st_ino)
        assert judged(served).trusted


@pytest.mark.parametrize("answer", ["silence", "no cgroup"])
def test_a_kernel_without_the_needed_information_makes_every_caller_need_a_token(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 5.8 does not report the cgroup, and some kernels lack sock_diag."""
    if answer == "silence":
        monkeypatch.setattr(socket_owner, "_SOCK_DIAG", 31)  # no such netlink family
    else:
        monkeypatch.setattr(socket_owner, "_CGROUP_ID", -1)
    with connected("127.0.0.1") as (_, served):
        assert judged(served) == UNIDENTIFIED


def test_a_socket_without_a_holder_has_no_owner() -> None:
    """The kernel reports uid 0 for it, which must not be taken for root."""
    with connected("127.0.0.1") as (client, served):
        where = ends(served)
        client.close()

        assert find(*where) is None
        assert anyio.run(LoopbackTrust().check, *where, ClientConnection(accepted=served)) == UNIDENTIFIED


def test_a_listener_on_the_callers_old_port_is_not_mistaken_for_the_caller() -> None:
    """If the exact socket is gone, the kernel returns one that listens there, usually root's."""
    with connected("127.0.0.1") as (client, served):
        where = ends(served)
        assert find(*where)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", where[0][1]))
            listener.listen()

            assert find(*where) is None


@pytest.mark.parametrize("peer", [("", 1), ("nonsense", 1), ("127.0.0.1", 1), ("fe80::1%lo", 9), ("::1", 65535)])
def test_addresses_without_a_connection_are_not_identified(peer: Address) -> None:
    assert find(peer, ("127.0.0.1", 4200)) is None
    assert anyio.run(LoopbackTrust().check, peer, ("127.0.0.1", 4200), ClientConnection()) == UNIDENTIFIED


@contextmanager
def caller(program: str, *wrapped: str) -> Iterator[socket.socket]:
    """Yield the server's end of a connection from another process that runs `program` after connecting."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        script = f"import encodings.idna, os, socket, sys\n{program}\nc = socket.create_connection(eval(sys.argv[1]))\n"
        process = subprocess.Popen(
            [*wrapped, PYTHON, "-c", script + "sys.stdin.read()", repr(listener.getsockname())],
            stdin=subprocess.PIPE,
        )
        listener.settimeout(20)
        try:
            served, _ = listener.accept()
            yield stack.enter_context(served)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)


BECOME_NOBODY = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"
# PR_SET_DUMPABLE: as for a program started as this user
AS_NOBODY = f"import ctypes; {BECOME_NOBODY}; ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)"


def test_another_process_of_our_own_user_is_trusted() -> None:
    with caller("") as served:
        found = judged(served)

        assert found.trusted and found.uid == os.geteuid()


@as_root
def test_another_user_needs_a_token_unless_it_may_use_the_engine_socket() -> None:
    with caller(BECOME_NOBODY) as served:
        found = judged(served)
        assert (found.trusted, found.uid, found.name) == (False, NOBODY, "nobody")
        assert "`nobody` may not use this host without a token" in found.refusal

        assert judged(served, LoopbackTrust(member=lambda uid: uid == NOBODY)).trusted


@as_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_root_in_a_container_on_the_hosts_network_needs_a_token() -> None:
    with caller("", "unshare", "--pid", "--fork") as served:
        found = judged(served)

        assert (found.trusted, found.uid) == (False, 0)
        assert "container" in found.refusal


FIRST_THREAD_ENDS = """
import ctypes, threading, time

def replaced():
    time.sleep(0.0002)
    threading.Thread(target=replaced, daemon=True).start()

threading.Thread(target={target}).start()
print(flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""
STAYS, IS_REPLACED = "time.sleep, args=(60,)", "replaced, daemon=True"
V1_GROUPS = Path("/sys/fs/cgroup/pids")


@contextmanager
def ending_container(target: str, *namespaces: str) -> Iterator[None]:
    """A process in namespaces and a cgroup of its own whose first thread has ended, while another one runs."""
    group = V1_GROUPS / f"anvyl-test-{os.getpid()}"
    command = ["unshare", "--pid", "--fork", "--kill-child", *namespaces, PYTHON, "-c"]
    group.mkdir()
    try:
        with subprocess.Popen([*command, FIRST_THREAD_ENDS.format(target=target)], stdout=subprocess.PIPE) as outer:
            try:
                assert outer.stdout is not None and outer.stdout.readline()
                pid = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text(encoding="ascii").strip()
                (group / "cgroup.procs").write_text(pid, encoding="ascii")
                wait_until(lambda: "\nVmSize:" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
                yield
            finally:
                outer.kill()
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(encoding="ascii"))
        group.rmdir()


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


in_v1_group = pytest.mark.skipif(
    not V1_GROUPS.is_dir(), reason="only cgroup v1 next to v2 leaves containers at the root"
)


@as_root
@in_v1_group
@pytest.mark.parametrize(("namespaces", "trusted"), [(("--net",), True), ((), False)], ids=["its own", "the machine's"])
def test_a_stopping_container_matters_only_on_the_hosts_network(namespaces: tuple[str, ...], trusted: bool) -> None:
    with ending_container(STAYS, *namespaces), connected("127.0.0.1") as (_, served):
        assert judged(served).trusted is trusted


@as_root
@in_v1_group
def test_a_container_cannot_hide_by_replacing_its_threads() -> None:
    with ending_container(IS_REPLACED), connected("127.0.0.1") as (_, served):
        for _ in range(300):
            assert not judged(served).trusted


@as_root
def test_an_unprivileged_server_trusts_only_its_own_user() -> None:
    """It cannot see which sockets the processes of other users hold."""
    with ExitStack() as stack:
        assert judged_by_another_user(stack.enter_context(caller(""))) == "False None"
        assert judged_by_another_user(stack.enter_context(caller(AS_NOBODY))) == f"True {NOBODY}"


def judged_by_another_user(served: socket.socket, program: str = "") -> str:
    """Return what a server of another user decides about a caller."""
    script = f"""
import os, socket
import anyio
from anvyl_mcp.server.auth.local_trust import LoopbackTrust, ClientConnection

async def judge():
    {AS_NOBODY}
    seen = ClientConnection(accepted=socket.socket(fileno={served.fileno()}))
    caller = await LoopbackTrust().check(*{ends(served)!r}, seen)
    print(caller.trusted, caller.uid)

anyio.run(judge)
"""
    done = subprocess.run(
        [PYTHON, "-c", script],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        pass_fds=[served.fileno()],
    )
    assert not done.stderr, done.stderr
    return done.stdout.strip()


async def test_processes_are_scanned_once_per_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    loopback, scans = LoopbackTrust(), 0
    real = caller_process.made_by_local_process

    def counted(found: socket_owner.PeerSocket, *, seconds: float, recent: dict[int, str]) -> bool | None:
        nonlocal scans
        scans += 1
        return real(found, seconds=seconds, recent=recent)

    monkeypatch.setattr("anvyl_mcp.server.auth.local_trust.made_by_local_process", counted)
    with connected("127.0.0.1") as (_, served):
        seen = ClientConnection(accepted=served)
        for _ in range(5):
            assert (await loopback.check(*ends(served), seen)).trusted
        assert scans == 1


async def test_the_last_callers_process_is_checked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    loopback, real, looked = LoopbackTrust(), os.listdir, list[str]()

    def listdir(folder: str) -> list[str]:
        looked.append(folder)
        return real(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    with connected("127.0.0.1") as (_, served):
        assert (await loopback.check(*ends(served), ClientConnection(accepted=served))).trusted
    looked.clear()
    with connected("127.0.0.1") as (_, served):
        assert (await loopback.check(*ends(served), ClientConnection(accepted=served))).trusted
    assert {folder for folder in looked if folder.endswith("/fd")} == {f"/proc/{os.getpid()}/fd"}
    with caller("") as other:
        assert (await loopback.check(*ends(other), ClientConnection(accepted=other))).trusted


async def test_trust_in_one_connection_is_not_inherited_by_the_next_on_its_port() -> None:
    loopback = LoopbackTrust()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(2):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.bind(("127.0.0.1", 0))
                client.connect(listener.getsockname())
                served, _ = listener.accept()
                with served:
                    where = ends(served)
                    assert (await loopback.check(*where, ClientConnection(accepted=served))).trusted
            assert await loopback.check(*where, ClientConnection()) == UNIDENTIFIED


async def test_an_unidentified_caller_is_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loopback, real = LoopbackTrust(), os.listdir
    with connected("127.0.0.1") as (_, served):
        monkeypatch.setattr(os, "listdir", out_of_descriptors)
        seen = ClientConnection(accepted=served)
        assert await loopback.check(*ends(served), seen) == UNIDENTIFIED
        monkeypatch.setattr(os, "listdir", real)

        assert (await loopback.check(*ends(served), seen)).trusted


def out_of_descriptors(*_: object) -> list[str]:
    raise OSError(24, "Too many open files")


def test_the_scan_has_a_time_limit() -> None:
    with connected("127.0.0.1") as (_, served):
        found = find(*ends(served))
        assert found is not None

        assert caller_process.made_by_local_process(found, seconds=-1) is None


def test_other_operating_systems_identify_no_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with connected("127.0.0.1") as (_, served):
        assert judged(served) == UNIDENTIFIED


@as_root
def test_members_of_the_engine_sockets_group_are_trusted(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    member = engine_socket_members(path)
    assert not member(NOBODY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        os.chown(path, 0, 65534)
        path.chmod(0o660)
        assert member(NOBODY)
        assert not member(4_000_000)
        path.chmod(0o640)
        assert not member(NOBODY)
        path.chmod(0o660)
        os.chown(path, 0, 64_000)
        assert not member(NOBODY)


def test_the_local_token_is_in_a_file_of_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "state" / "local.token"
    local = LocalToken(file)
    assert LocalToken.read(file) == "" and not local.matches("")
    local.make()
    text = LocalToken.read(file)

    assert file.stat().st_mode & 0o777 == 0o600
    assert local.matches(text) and text.startswith("anv_local_") and len(text) > 50
    assert not local.matches(text[:-1]) and not local.matches("") and not local.matches("\ud800")
    local.make()
    assert not local.matches(text)
    local.remove()
    assert LocalToken.read(file) == "" and not local.matches(text)


def test_an_unwritable_local_token_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file", encoding="utf-8")

    with pytest.raises(ConfigInvalid, match=r"local\.token cannot be written"):
        LocalToken(tmp_path / "state" / "local.token").make()
