"""A private Docker daemon that is cleaned up however the tests end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

PREFIX = "anvyl-engine-"
OWNED = "owned"
NAMESPACES = ("unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
# `--mount-proc` brings a mount namespace too. An empty /run hides the machine's systemd and containerd, an empty
# /etc/docker its configuration and, up to Docker 20.10, the key that an engine's id is made from.
PREPARE = """
busybox=$0; name=$1; shift
$busybox hostname "$name"
$busybox ip link set lo up
$busybox mkdir -p /etc/docker
$busybox mount -t tmpfs tmpfs /run
$busybox mount -t tmpfs tmpfs /etc/docker
exec dockerd "$@"
"""
START_SECONDS = 30


class UnavailableError(Exception):
    """The engine cannot be used here; the message gives the reason."""


class Daemon:
    """A `dockerd` in its own namespaces: when its first process ends, all its processes and mounts are gone."""

    program = "dockerd"
    prepare = PREPARE

    def __init__(self, name: str, network: Sequence[str] = (), zone: str = "") -> None:
        """`network`: command prefix that enters an existing network namespace; by default it gets a new one.

        `zone`: time zone of the daemon, like `Europe/Berlin`.
        """
        self._name, self._environment = name, {"TZ": zone} if zone else {}
        self._enter = [*network, *NAMESPACES, *(() if network else ("--net",)), "--"]
        self._busybox = _needed_for_daemon(self.program)
        # Not TMPDIR: a socket's path has to be short, and /run is hidden from the daemon.
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        self._owned = _own(self.folder)
        (self.folder / "daemon.json").write_text("{}", encoding="utf-8")
        self.socket = self.folder / "docker.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        """Pid of the outermost process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            UnavailableError: it exited, or did not answer in time.
        """
        # A pid file that a killed daemon left names pid 1, which always lives: the next start would refuse.
        for left in (self.folder / "dockerd.pid", self.folder / "exec/containerd/containerd.pid", self.socket):
            left.unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._enter, "sh", "-c", self.prepare, self._busybox, self._name, *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ["PATH"], **self._environment},
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.socket):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise UnavailableError(f"{self.program} does not start here: {self._last_words()}")
            time.sleep(0.02)  # there is no event for the socket

    def _options(self) -> list[str]:
        folder = self.folder
        paths = {"config-file": "daemon.json", "data-root": "data", "exec-root": "exec", "pidfile": "dockerd.pid"}
        options = [f"--{option}={folder / path}" for option, path in paths.items()]
        return [*options, f"--host={self.url}", "--shutdown-timeout=3", "--log-level=warn"]

    def stop(self) -> None:
        """Stop it with SIGTERM; its containers stop first."""
        if self._process is None:
            return
        for process in psutil.Process(self._process.pid).children():
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self.kill()

    def hang(self) -> None:
        """Suspend it: it accepts connections and answers none."""
        for process in psutil.Process(self.pid).children():
            process.suspend()

    def resume(self) -> None:
        """Resume it."""
        if self._process is not None:
            for process in psutil.Process(self._process.pid).children():
                process.resume()

    def kill(self) -> None:
        """Kill it and all its containers."""
        if self._process is None:
            return
        _kill(self._process.pid)
        self._process.wait()
        self._process = None

    def close(self) -> None:
        """Stop it and delete its data."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._owned)

    def _last_words(self) -> str:
        lines = (self.folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else "its log is empty"


def sweep() -> None:
    """Remove the engines of test runs that were killed before their own cleanup."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.geteuid():
            continue
        try:
            owned = _lock(folder / OWNED)
        except (FileNotFoundError, BlockingIOError):
            continue
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or [""]
            if command[0] == NAMESPACES[0] and any(str(folder) in word for word in command):
                _kill(process.pid)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owned)


def _own(folder: Path) -> int:
    """Lock the folder until the descriptor is closed or the process ends."""
    # Renamed only after it is locked, so that a concurrent `sweep` never finds it unlocked.
    new = folder / f"new-{OWNED}"
    new.touch()
    descriptor = _lock(new)
    new.rename(folder / OWNED)
    return descriptor


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _kill(pid: int) -> None:
    """Kill the outer process; the kernel then ends everything in the inner pid namespace."""
    with contextlib.suppress(psutil.NoSuchProcess):
        outer = psutil.Process(pid)
        inner = outer.children()
        outer.kill()
        psutil.wait_procs(inner, 10)


def answers(path: Path) -> bool:
    """Whether the engine answers a ping; it accepts connections before it is ready."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
            probe.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            return b" 200 " in probe.recv(64)
        except OSError:
            return False


def _needed_for_daemon(engine: str) -> str:
    """Check the requirements of a private engine and return the path of a static busybox."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise UnavailableError("a private engine needs root on Linux")
    for program in (engine, "iptables", "unshare"):
        if not shutil.which(program):
            raise UnavailableError(f"a private engine needs `{program}` on PATH")
    return static_busybox()


def static_busybox() -> str:
    path = shutil.which("busybox")
    if not path or re.search(rb"/ld-[\w.-]*\.so", Path(path).read_bytes()):
        raise UnavailableError("the test images need a static busybox (Debian, Ubuntu: `apt install busybox-static`)")
    return path
