"""The process that holds a socket: whether it lives where this server does, and made that socket there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path

from anvyl_mcp.server.auth.socket_owner import PeerSocket

FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO: the namespace that sees every process of the machine."""
ROOT_CGROUP = 1
"""Id of the top of the cgroup tree. Machines without systemd keep most of their processes there."""
MOST_LOOKS = 3
"""At the threads of a process, while new ones appear."""
TUNNEL = "/dev/net/tun"
"""What carries packets of a container or virtual machine holds it open: slirp4netns, pasta, an emulator."""


def made_where_we_live(
    found: PeerSocket, *, seconds: float, lately: MutableMapping[int, str] | None = None
) -> bool | None:
    """Whether a process of our namespaces holds the socket and the socket was made in that process's cgroup.

    A process that was handed the socket by another one fails this: it lives in its own cgroup, and the socket keeps
    the one that it was made in. None when something could not be seen, or not in time.

    `lately`: the process of each user that held the last socket, to be looked at first.
    """
    lately = {} if lately is None else lately
    wanted, end = f"socket:[{found.inode}]", time.monotonic() + seconds
    try:
        for pid in _likely_first(found.uid, lately.get(found.uid)):
            if time.monotonic() > end:
                return None
            if wanted in _descriptors(pid):
                lately[found.uid] = pid
                verdict = _lives_with_us(pid, found.cgroup)
                # The number may have gone to another process while we looked.
                return verdict if wanted in _descriptors(pid) else None
    except OSError:
        pass
    return None


def _lives_with_us(pid: str, made_in: int) -> bool | None:
    if _link(f"/proc/{pid}/ns/pid") != _link("/proc/self/ns/pid"):
        return False
    if _link(f"/proc/{pid}/ns/mnt") not in _our_mounts() or TUNNEL in _descriptors(pid):
        return False
    lives_in = _cgroup_id(pid)
    if not made_in or lives_in is None:
        return None
    if made_in != lives_in:
        return False
    if made_in == ROOT_CGROUP:
        return not _container_may_be_in_root_cgroup(pid)
    return True


def _our_mounts() -> set[str]:
    """Our mount namespace, and the machine's: a hardened service has one of its own."""
    ours = {_link("/proc/self/ns/mnt")}
    with suppress(PermissionError):
        ours.add(_link("/proc/1/ns/mnt"))
    return ours


def _cgroup_id(pid: str) -> int | None:
    """The id of a process's cgroup, which is the inode of its folder; None where that is not mounted."""
    path = next((line[3:] for line in _cgroups(pid) if line.startswith("0::")), "")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        if path and after.startswith("cgroup2 "):
            _, _, _, root, mounted, *_ = before.split()
            inside = os.path.relpath(path, root)
            # A root above our own cgroup namespace begins with dots.
            if ".." not in f"{root}/{inside}".split("/"):
                return os.stat(f"{mounted}/{inside}").st_ino  # noqa: PTH116
    return None


def _cgroups(pid: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _link(path: str) -> str:
    # Path.readlink makes an object of each of thousands of descriptors.
    return os.readlink(path)  # noqa: PTH115


def _pids() -> Iterator[str]:
    return (name for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208


def _likely_first(uid: int, lately: str | None) -> Iterator[str]:
    """Processes of that user first, and of those the newest: most callers are commands that were just started."""
    if lately is not None:
        yield lately
    others = []
    for pid in sorted(_pids(), key=int, reverse=True):
        try:
            theirs = os.stat(f"/proc/{pid}").st_uid == uid  # noqa: PTH116
        except OSError:
            continue
        if theirs:
            yield pid
        else:
            others.append(pid)
    yield from others


def _descriptors(pid: str) -> set[str]:
    """What a process has open, as far as we may look."""
    folder, found = f"/proc/{pid}/fd", set[str]()
    try:
        for name in os.listdir(folder):  # noqa: PTH208
            try:
                found.add(_link(f"{folder}/{name}"))
            except FileNotFoundError:
                continue
    except (PermissionError, FileNotFoundError, ProcessLookupError):
        pass
    return found


def in_first_namespace() -> bool:
    """Whether this process sees every process of the machine."""
    try:
        return _link("/proc/self/ns/pid") == FIRST_PID_NAMESPACE
    except OSError:
        return False


def _container_may_be_in_root_cgroup(holder: str) -> bool:
    """Whether a container shares our network and the root cgroup, which then tells nothing.

    Where cgroup v1 is in use next to v2, older container runtimes leave their containers at the root of v2: they are in
    another PID namespace, and in other cgroups of v1 than `holder`. What cannot be seen counts as yes.
    """
    if not in_first_namespace() or not Path("/proc/1/status").exists():
        return True
    network = os.stat("/proc/self/net/dev").st_ino  # noqa: PTH116
    ours, cgroups = _link("/proc/self/ns/pid"), _cgroups(holder)
    return any(
        _in_other_namespace(pid, ours) and _apart_in_root_cgroup(cgroups, pid) and _on_network(pid, network)
        for pid in _pids()
    )


def _apart_in_root_cgroup(cgroups: list[str], pid: str) -> bool:
    theirs = _cgroups(pid)
    return "0::/" in theirs and theirs != cgroups


def _in_other_namespace(pid: str, ours: str) -> bool:
    try:
        return _link(f"/proc/{pid}/ns/pid") != ours and not ended(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except PermissionError:
        return _nested(pid)


def ended(pid: str) -> bool:
    """Whether no thread can run code any more: each has let go of its memory.

    Its entry may stay for long, and so may a thread: the first process of a namespace waits for all others to end.
    """
    return not _any_thread(pid, _has_memory)


def _any_thread(pid: str, applies: Callable[[str], bool]) -> bool:
    """Whether something applies to a thread of a process, given as its folder in /proc.

    Also true of a process that starts threads faster than they can be looked at.
    """
    looked_at = set[str]()
    for _ in range(MOST_LOOKS):
        try:
            threads = set(os.listdir(f"/proc/{pid}/task")) - looked_at  # noqa: PTH208
        except (FileNotFoundError, ProcessLookupError):
            return False
        if not threads:
            return False
        if any(applies(f"/proc/{pid}/task/{thread}") for thread in threads):
            return True
        # A thread that has just ended may have started another one.
        looked_at |= threads
    return True


def _has_memory(thread: str) -> bool:
    """Whether a thread still has memory; readable without rights over it."""
    try:
        return "\nVmSize:" in Path(f"{thread}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _nested(pid: str) -> bool:
    """Whether a process has a number in more than one PID namespace: readable without rights over it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return len(fields.get("NSpid", "").split()) != 1 and not ended(pid)


def _on_network(pid: str, network: int) -> bool:
    """Whether a process has a thread on this network; a thread that cannot be checked counts as one.

    Readable without rights over the process, unlike its ns/net. The first thread alone does not tell: it can end, and
    lose its network, before the others do.
    """

    def applies(thread: str) -> bool:
        try:
            return os.stat(f"{thread}/net/dev").st_ino == network  # noqa: PTH116
        except OSError:
            return _has_memory(thread)

    return _any_thread(pid, applies)
