"""Whether the process that holds a socket runs in this server's namespaces, and created the socket itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path

from anvyl_mcp.server.auth.socket_owner import PeerSocket

FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO: the initial PID namespace, which sees every process of the machine."""
ROOT_CGROUP = 1
"""Id of the root cgroup. Machines without systemd keep most of their processes there."""
MAX_SCANS = 3
"""Of a process's threads, while new ones appear."""
TUNNEL = "/dev/net/tun"
"""Held open by programs that carry packets of a container or virtual machine: slirp4netns, pasta, an emulator."""


def made_by_local_process(
    found: PeerSocket, *, seconds: float, recent: MutableMapping[int, str] | None = None
) -> bool | None:
    """Whether a process in our namespaces holds the socket, and the socket was created in that process's cgroup.

    False for a process that received the socket from another one: the socket keeps the cgroup it was created in. None
    if this could not be determined, or not in time.

    `recent`: per user, the process that held the last socket, which is checked first.
    """
    recent = {} if recent is None else recent
    wanted, end = f"socket:[{found.inode}]", time.monotonic() + seconds
    try:
        for pid in _likely_holders(found.uid, recent.get(found.uid)):
            if time.monotonic() > end:
                return None
            if wanted in _descriptors(pid):
                recent[found.uid] = pid
                local = _is_local_process(pid, found.cgroup)
                # The pid may have been reused meanwhile.
                return local if wanted in _descriptors(pid) else None
    except OSError:
        pass
    return None


def _is_local_process(pid: str, made_in: int) -> bool | None:
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
    """Our mount namespace and that of PID 1: a hardened service has its own."""
    ours = {_link("/proc/self/ns/mnt")}
    with suppress(PermissionError):
        ours.add(_link("/proc/1/ns/mnt"))
    return ours


def _cgroup_id(pid: str) -> int | None:
    """The id of a process's cgroup, which is the inode of its folder; None if cgroup v2 is not mounted."""
    path = next((line[3:] for line in _cgroups(pid) if line.startswith("0::")), "")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        if path and after.startswith("cgroup2 "):
            _, _, _, root, mounted, *_ = before.split()
            inside = os.path.relpath(path, root)
            # A root above our own cgroup namespace starts with `..`.
            if ".." not in f"{root}/{inside}".split("/"):
                return os.stat(f"{mounted}/{inside}").st_ino  # noqa: PTH116
    return None


def _cgroups(pid: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _link(path: str) -> str:
    # Path.readlink would create an object for each of thousands of descriptors.
    return os.readlink(path)  # noqa: PTH115


def _pids() -> Iterator[str]:
    return (name for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208


def _likely_holders(uid: int, recent: str | None) -> Iterator[str]:
    """Yield all pids, those of `uid` first and newest first: most callers are commands that were just started."""
    if recent is not None:
        yield recent
    others = []
    for pid in sorted(_pids(), key=int, reverse=True):
        try:
            same_user = os.stat(f"/proc/{pid}").st_uid == uid  # noqa: PTH116
        except OSError:
            continue
        if same_user:
            yield pid
        else:
            others.append(pid)
    yield from others


def _descriptors(pid: str) -> set[str]:
    """The link targets of a process's open descriptors, as far as permissions allow."""
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
    """Whether this process runs in the initial PID namespace."""
    try:
        return _link("/proc/self/ns/pid") == FIRST_PID_NAMESPACE
    except OSError:
        return False


def _container_may_be_in_root_cgroup(holder: str) -> bool:
    """Whether a container shares our network and the root cgroup, so that the root cgroup proves nothing.

    With cgroup v1 next to v2, older container runtimes leave their containers in the root cgroup of v2. Such containers
    are in another PID namespace, and in other v1 cgroups than `holder`. True if this cannot be determined.
    """
    if not in_first_namespace() or not Path("/proc/1/status").exists():
        return True
    network = os.stat("/proc/self/net/dev").st_ino  # noqa: PTH116
    ours, cgroups = _link("/proc/self/ns/pid"), _cgroups(holder)
    return any(
        _in_other_namespace(pid, ours) and _in_root_cgroup_elsewhere(cgroups, pid) and _on_network(pid, network)
        for pid in _pids()
    )


def _in_root_cgroup_elsewhere(cgroups: list[str], pid: str) -> bool:
    theirs = _cgroups(pid)
    return "0::/" in theirs and theirs != cgroups


def _in_other_namespace(pid: str, ours: str) -> bool:
    try:
        return _link(f"/proc/{pid}/ns/pid") != ours and not has_ended(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except PermissionError:
        return _in_nested_namespace(pid)


def has_ended(pid: str) -> bool:
    """Whether no thread can run code any more: each has released its memory.

    The /proc entry may stay for long, and so may a thread: PID 1 of a namespace waits for all others to end.
    """
    return not _any_thread(pid, _has_memory)


def _any_thread(pid: str, applies: Callable[[str], bool]) -> bool:
    """Whether `applies` holds for a thread of a process; it gets the thread's folder in /proc.

    Also true for a process that starts threads faster than they can be checked.
    """
    checked = set[str]()
    for _ in range(MAX_SCANS):
        try:
            threads = set(os.listdir(f"/proc/{pid}/task")) - checked  # noqa: PTH208
        except (FileNotFoundError, ProcessLookupError):
            return False
        if not threads:
            return False
        if any(applies(f"/proc/{pid}/task/{thread}") for thread in threads):
            return True
        # A thread that has just ended may have started another one.
        checked |= threads
    return True


def _has_memory(thread: str) -> bool:
    """Whether a thread still has memory; readable without permission to trace it."""
    try:
        return "\nVmSize:" in Path(f"{thread}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _in_nested_namespace(pid: str) -> bool:
    """Whether a process has a pid in more than one PID namespace; readable without permission to trace it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return len(fields.get("NSpid", "").split()) != 1 and not has_ended(pid)


def _on_network(pid: str, network: int) -> bool:
    """Whether a process has a thread in this network namespace; true for a thread that cannot be checked.

    Readable without permission to trace the process, unlike its ns/net. The first thread alone is not enough: it can
    end, and lose its network, before the others do.
    """

    def applies(thread: str) -> bool:
        try:
            return os.stat(f"{thread}/net/dev").st_ino == network  # noqa: PTH116
        except OSError:
            return _has_memory(thread)

    return _any_thread(pid, applies)
