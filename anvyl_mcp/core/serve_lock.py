"""Which server of this installation runs on this machine, if any: a lock that lives as long as its process."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from anvyl_mcp.core import file_locks
from anvyl_mcp.core.errors import AnvylError, Conflict
from anvyl_mcp.core.files import write_atomically

CLAIM_SECONDS = 0.1
LOCAL_TOKEN_FILE = "local.token"
"""Beside the lock: lets commands of the server's own user in where the system cannot tell who calls."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that runs: its process, its name in the fleet and where it answers."""

    pid: int
    name: str
    url: str
    version: str
    network: tuple[str, ...] = ()


def find_server(run_dir: Path) -> RunningServer | None:
    """The server that holds this installation's lock; None when none does."""
    try:
        with (run_dir / "serve.lock").open(encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                told = json.loads((run_dir / "serve.json").read_text(encoding="utf-8"))
                return RunningServer(**{**told, "network": tuple(told.get("network", ()))})
    except (OSError, ValueError, TypeError):
        return None
    return None


@contextmanager
def claim(run_dir: Path) -> Iterator[Path]:
    """Hold the lock of the one server of this installation; yields the file that `announce` writes.

    Raises:
        Conflict: another one runs.
    """
    try:
        lock = file_locks.open_lock_file(run_dir / "serve.lock")
    except OSError as error:
        raise AnvylError(
            f"{run_dir} cannot be written: {error.strerror}", hint="check the disk and its permissions"
        ) from error
    try:
        try:
            # A command that looks whether a server runs holds it for a moment.
            file_locks.acquire(lock, fcntl.LOCK_EX, seconds=CLAIM_SECONDS)
        except TimeoutError as error:
            other = find_server(run_dir)
            where = f" at {other.url} (process {other.pid})" if other else f": {error.strerror}"
            raise Conflict(
                f"anvyl-mcp serves already{where}", hint="stop it first, or set ANVYL_HOME for a second one"
            ) from error
        announced = run_dir / "serve.json"
        try:
            yield announced
        finally:
            announced.unlink(missing_ok=True)
    finally:
        os.close(lock)


def read_local_token(run_dir: Path) -> str:
    """The token that a running server keeps for commands of its own user; empty when there is none to read."""
    try:
        return (run_dir / LOCAL_TOKEN_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def write_server_file(file: Path, *, name: str, url: str, version: str, network: list[str]) -> None:
    """Say where this process serves; `network` are its URLs on the network."""
    running = RunningServer(os.getpid(), name, url, version, tuple(network))
    write_atomically(file, json.dumps(asdict(running)), durable=False)
