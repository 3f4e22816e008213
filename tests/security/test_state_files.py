"""State files are private, and a lock held by another process delays a command only briefly."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import file_locks, serve_lock
from anvyl_mcp.core.errors import AnvylError, Busy, ConfigInvalid
from anvyl_mcp.core.files import restrict_permissions
from anvyl_mcp.core.settings import load
from anvyl_mcp.core.settings_file import write_setting
from anvyl_mcp.peers.connection.listing import AuditHead
from anvyl_mcp.peers.hosts.audit_witness import HeadStore
from anvyl_mcp.peers.hosts.registry import Peer, Registry
from anvyl_mcp.server.auth.certificate import host_identity
from anvyl_mcp.server.http.host_state import HostState
from tests.support.hosts.nodes import anvyl, running_node

HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Run another process that holds the lock of a file."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to_others(home: Path) -> list[str]:
    """Folders and files that other users may access."""
    paths = [home, *home.rglob("*")]
    return sorted(str(one.relative_to(home)) for one in paths if not one.is_symlink() and mode(one) & 0o077)


@pytest.fixture
def permissive() -> Iterator[None]:
    """Set a umask that lets others read new files, as on most systems."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_all_new_files_are_private(permissive: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder above `audit/` was once 0755; `hosts.lock` and `heads.lock` were 0644."""
    home = tmp_path / "a" / "home"
    monkeypatch.setenv("ANVYL_HOME", str(home))

    with running_node("alpha", home):
        anvyl("ps")
        assert anvyl("hosts", "add", "nas", "http://127.0.0.1:9").code == 0
        anvyl("ask", "list containers")
        HostState(load().state_dir).create_token("laptop", "read", None)

    assert open_to_others(tmp_path / "a") == []
    assert (home / "hosts.lock").exists() and (home / "run" / "serve.lock").exists()


def test_the_files_of_an_older_home_become_private_when_it_is_used(tmp_path: Path) -> None:
    """Homes of older versions are readable by others."""
    home = tmp_path / "home"
    for folder in (home, home / "audit", home / "run", home / "trust"):
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
    for lock in (home / "hosts.lock", home / "heads.lock"):
        lock.touch(mode=0o644)
    (home / "notes.txt").write_text("mine", encoding="utf-8")

    anvyl("ps", ANVYL_HOME=str(home))

    assert open_to_others(home) == ["notes.txt"]
    assert mode(home) == 0o700


@pytest.mark.parametrize("kind", ["temporary", "home", "above home", "others"])
def test_permissions_of_a_shared_folder_are_not_changed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ANVYL_HOME=/tmp` must not lock other users out; files of Anvyl in it become private."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "trust").mkdir(mode=0o755)
    (place / "hosts.lock").touch(mode=0o644)
    match kind:
        case "temporary":
            place.chmod(0o1777)
        case "home":
            monkeypatch.setenv("HOME", str(place))
        case "above home":
            monkeypatch.setenv("HOME", str(place / "mallory"))
        case "others":
            (place / "website").mkdir(mode=0o755)
    if kind != "temporary":
        place.chmod(0o755)
    before = mode(place)

    restrict_permissions(place)

    assert mode(place) == before
    assert [mode(place / "trust"), mode(place / "hosts.lock")] == [0o700, 0o600]


def test_a_change_that_meets_a_held_lock_fails_and_names_the_holder(tmp_path: Path) -> None:
    """Once another user's `flock` blocked `anvyl hosts add` for as long as it was held."""
    with held(tmp_path / "hosts.lock") as holder:
        done = anvyl("hosts", "add", "nas", "http://127.0.0.1:9", "--json")

    error = done.json["error"]
    assert error["code"] == "busy"
    assert str(holder.pid) in error["message"] and "hosts.lock" in error["message"] and "python" in error["message"]
    assert not (tmp_path / "hosts.toml").exists()


def test_reading_commands_do_not_wait_for_the_audit_witness_lock(tmp_path: Path) -> None:
    """The same once blocked `anvyl ps` at its end."""
    heads = HeadStore(tmp_path / "heads.json")
    heads.note("nas", "https://192.0.2.1:4200", AuditHead(1, "f" * 64))

    with held(tmp_path / "heads.lock"):
        heads.flush()
    heads.flush()

    assert heads.heads_of("nas", "https://192.0.2.1:4200") == [AuditHead(1, "f" * 64)]


@pytest.mark.parametrize("name", ["tokens.lock", "invites.lock", "next.lock", "folder", "audit", "operations", "serve"])
def test_every_lock_has_a_timeout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_locks, "DEFAULT_TIMEOUT", 0.2)
    settings = load()
    kept = HostState(settings.state_dir)
    host_identity(kept.folder)
    kept.audit.open()
    kept.journal.open()
    kept.audit.close()
    files = {"folder": kept.folder, "audit": tmp_path / "audit" / "head", "operations": kept.journal.folder / "lock"}
    files["serve"] = settings.run_dir / "serve.lock"
    files["serve"].parent.mkdir(exist_ok=True)
    acts: dict[str, Callable[[], object]] = {
        "tokens.lock": lambda: kept.tokens.create("x", ["read"]),
        "invites.lock": lambda: kept.invites.create(["read"], 60),
        "next.lock": lambda: kept.next_key.begin(),
        "folder": lambda: host_identity(kept.folder),
        "audit": lambda: kept.audit.begin("stop", {}, who="a", how="b", changes=True),
        "operations": lambda: kept.journal.find("x"),
        "serve": lambda: serve_lock.claim(settings.run_dir).__enter__(),
    }
    act = acts[name]
    file = files.get(name, kept.folder / name)

    if file.is_dir():
        handle = os.open(file, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(AnvylError, match="another part of this process"):
            act()
        os.close(handle)
        return
    with held(file) as holder, pytest.raises(AnvylError) as refused:
        act()
    assert str(holder.pid) in refused.value.message


@pytest.mark.parametrize("bits", [0o664, 0o646, 0o666])
def test_a_settings_file_that_others_may_write_is_ignored(bits: int, tmp_path: Path) -> None:
    """`config.toml` names programs to run, so its permissions matter."""
    file = tmp_path / "config.toml"
    file.write_text('watch_command = "/bin/true"\n', encoding="utf-8")
    file.chmod(bits)

    with pytest.raises(ConfigInvalid, match="can be changed by other users") as refused:
        load()
    assert refused.value.hint == f"check its content, then: chmod go-w {file}"

    file.chmod(0o644)
    assert load().watch_command == "/bin/true"


def test_a_hosts_file_that_others_may_write_is_ignored(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "hosts.toml")
    registry.add(Peer("nas", "http://127.0.0.1:9"))
    assert mode(registry.path) == 0o600
    registry.path.chmod(0o666)

    with pytest.raises(ConfigInvalid, match="can be changed by other users"):
        registry.peers()


def test_a_new_settings_file_is_private(permissive: None, tmp_path: Path) -> None:
    """It may contain a key."""
    assert mode(write_setting(tmp_path, "llm_api_key", "sk-abc")) == 0o600


def test_a_lock_that_is_soon_released_is_acquired(tmp_path: Path) -> None:
    with (
        file_locks.exclusive_lock(tmp_path / "x.lock"),
        pytest.raises(Busy, match="another part of this process"),
        file_locks.exclusive_lock(tmp_path / "x.lock", seconds=0.05),
    ):
        pass
    with file_locks.exclusive_lock(tmp_path / "x.lock"):
        assert mode(tmp_path / "x.lock") == 0o600


def test_the_home_of_a_node_is_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    Node(load())

    assert mode(tmp_path) == 0o700
