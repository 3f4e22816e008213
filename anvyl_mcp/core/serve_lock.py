"""The lock of the running server: finds it, and allows only one per installation."""

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
"""In the same folder: a token for commands of the same user, where the system cannot identify the caller."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Process, host name and URLs of the running server. `network` are the URLs that other machines can reach."""

    pid: int
    name: str
    url: str
    version: str
    network: tuple[str, ...] = ()


def server_file(run_dir: Path) -> Path:
    """The file in which the running server says where it is."""
    return run_dir / "serve.json"


def find_server(run_dir: Path) -> RunningServer | None:
    """Return the running server of this installation, or None."""
    try:
        with (run_dir / "serve.lock").open(encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                fields = json.loads(server_file(run_dir).read_text(encoding="utf-8"))
                return RunningServer(**{**fields, "network": tuple(fields.get("network", ()))})
    except (OSError, ValueError, TypeError):
        return None
    return None


@contextmanager
def claim(run_dir: Path) -> Iterator[Path]:
    """Hold the server lock of this installation; yields the path for `write_server_file`.

    Raises:
        Conflict: another server is running.
        AnvylError: the lock file cannot be created.
    """
    try:
        lock = file_locks.open_lock_file(run_dir / "serve.lock")
    except OSError as error:
        raise AnvylError(
            f"{run_dir} cannot be written: {error.strerror}", hint="check disk space and permissions"
        ) from error
    try:
        try:
            # `find_server` in another process holds a shared lock for a moment.
            file_locks.acquire(lock, fcntl.LOCK_EX, seconds=CLAIM_SECONDS)
        except TimeoutError as error:
            other = find_server(run_dir)
            where = f" at {other.url} (process {other.pid})" if other else f": {error.strerror}"
            raise Conflict(
                f"anvyl-mcp is already running{where}", hint="stop it first, or set ANVYL_HOME to run a second one"
            ) from error
        file = server_file(run_dir)
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)
    finally:
        os.close(lock)


def read_local_token(run_dir: Path) -> str:
    """Return the token for commands of the user who runs the server; empty if it cannot be read."""
    try:
        return (run_dir / LOCAL_TOKEN_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def write_server_file(file: Path, *, name: str, url: str, version: str, network: list[str]) -> None:
    """Write process id, name and URLs of this server for `find_server`."""
    server = RunningServer(os.getpid(), name, url, version, tuple(network))
    write_atomically(file, json.dumps(asdict(server)), durable=False)
