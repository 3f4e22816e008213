"""The journal of operations: no operation that began is forgotten, whatever happens to the database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from anvyl_mcp.core.errors import AnvylError, Denied
from anvyl_mcp.server.calls import journal as journal_module
from anvyl_mcp.server.calls.journal import FILE, MAX_ENDING, OLD_FILE, Journal, JournalEntry

ROOT = Path(__file__).parents[3]
OK = {"ok": {"name": "web"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "operations"


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    with closing(Journal(folder)) as opened:
        yield opened


def begin(journal: Journal, *operations: str) -> None:
    for operation in operations:
        assert journal.start(operation, f"call of {operation}", tool="stop_container") is None


def test_begun_and_ended_operations_survive_a_restart(journal: Journal, folder: Path) -> None:
    begin(journal, "one", "two", "three")
    journal.end("one", OK)
    journal.void("three")

    for reader in (journal, Journal(folder)):
        with closing(reader):
            assert reader.find("one") == JournalEntry("call of one", OK)
            assert reader.find("two") == JournalEntry("call of two", None)
            assert reader.find("three") is None and reader.find("four") is None
            assert reader.start("one", "call of one", tool="x") == JournalEntry("call of one", OK)
            assert reader.start("two", "call of two", tool="x") == JournalEntry("call of two", None)


def test_two_processes_see_each_others_operations(journal: Journal, folder: Path) -> None:
    begin(journal, "mine")
    with closing(Journal(folder)) as other:
        begin(other, "other")
        journal.end("mine", OK)
        assert other.find("mine") == JournalEntry("call of mine", OK)
    assert journal.find("other") == JournalEntry("call of other", None)


def test_it_is_readable_by_its_owner_only(journal: Journal, folder: Path) -> None:
    before = os.umask(0)
    try:
        begin(journal, "one")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in folder.iterdir())


@pytest.mark.parametrize("long", ["ok", "error"])
def test_a_large_result_is_dropped_but_its_operation_is_kept(journal: Journal, long: str, folder: Path) -> None:
    begin(journal, "one")
    journal.end("one", {long: {"words": "x" * MAX_ENDING}})

    entry = journal.find("one")

    assert entry is not None and entry.end is not None and set(entry.end) == {"dropped"}
    journal.close()
    assert b"xxx" not in (folder / FILE).read_bytes()


def test_a_truncated_file_is_restored_from_the_audit_log(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["one", "two", "three"]
    with closing(Journal(folder)) as journal:
        begin(journal, *names)
        journal.end("one", OK)
    whole = (folder / FILE).read_bytes()

    for size in (*range(0, 200, 7), *range(200, len(whole), 211), len(whole) - 1):
        empty(folder)
        (folder / FILE).write_bytes(whole[:size])
        with closing(Journal(folder, recall=lambda: names)) as journal:
            journal.open()
            assert all(journal.start(name, f"call of {name}", tool="x") is not None for name in names), size
            begin(journal, "four")
        aside = [file for file in folder.iterdir() if ".bad-" in file.name]
        assert [file.read_bytes() for file in aside] == ([whole[:size]] if size else []), size
        with closing(Journal(folder, recall=tuple)) as again:
            assert all(again.find(name) is not None for name in [*names, "four"]), size
    assert "damaged" in caplog.text and "3 operations" in caplog.text


@pytest.mark.parametrize("lost", ["-wal", "-wal and -shm"])
def test_changes_in_a_lost_write_ahead_log_are_restored_from_the_audit_log(
    lost: str, folder: Path, tmp_path: Path
) -> None:
    """Without it, SQLite sees a valid database that lacks the latest changes."""
    names = [f"op-{number}" for number in range(9)]
    with closing(Journal(folder)) as journal:
        begin(journal, *names)
        journal.end("op-0", OK)
        copies = {file.name: file.read_bytes() for file in folder.iterdir()}
    log = copies[f"{FILE}-wal"]
    if "-shm" in lost:
        del copies[f"{FILE}-shm"]

    for size in (*range(0, len(log), 3001), len(log), None):
        copy = tmp_path / f"copy-{size}"
        copy.mkdir()
        for name, content in copies.items():
            (copy / name).write_bytes(content[:size] if name.endswith("-wal") else content)
        if size is None:
            (copy / f"{FILE}-wal").unlink()
        with closing(Journal(copy, recall=lambda: names)) as journal:
            assert all(journal.find(name) for name in names), size
            if size == len(log):
                assert journal.find("op-0") == JournalEntry("call of op-0", OK)


@pytest.mark.parametrize("old", [b"two", b"call of two", b"CREATE TABLE", b"begun REAL", b"SQLite format 3"])
def test_a_corrupted_file_is_restored_from_the_audit_log(old: bytes, folder: Path) -> None:
    names = ["one", "two", "three"]
    with closing(Journal(folder)) as journal:
        begin(journal, *names)
    file = folder / FILE
    file.write_bytes(file.read_bytes().replace(old, bytes(reversed(old)), 1))

    with closing(Journal(folder, recall=lambda: names)) as journal:
        assert all(journal.find(name) for name in names)


def test_corruption_of_an_open_database_is_noticed_at_once_or_at_the_next_start(folder: Path) -> None:
    names = [f"op-{number}" for number in range(200)]
    with closing(Journal(folder)) as journal:
        begin(journal, *names)
    with closing(Journal(folder, recall=lambda: names)) as journal:
        assert journal.find("op-0") == JournalEntry("call of op-0", None)
        size = (folder / FILE).stat().st_size
        with (folder / FILE).open("r+b") as file:
            file.write(os.urandom(size))
        for name in names:
            try:
                assert journal.find(name) is not None
            except Denied as refused:
                assert "changes are refused" in str(refused)
    with closing(Journal(folder, recall=lambda: names)) as journal:
        assert all(journal.find(name) for name in names)


def test_a_removed_file_is_restored_from_the_audit_log(folder: Path) -> None:
    with closing(Journal(folder, recall=lambda: ["one"])) as journal:
        begin(journal, "two")
        assert journal.find("one") == JournalEntry("", None)
        (folder / FILE).unlink()
        assert journal.find("one") == JournalEntry("", None)


def test_a_damaged_journal_without_a_readable_audit_log_refuses_changes(folder: Path) -> None:
    def unreadable() -> list[str]:
        raise AnvylError("the audit log cannot be read: Input/output error")

    folder.mkdir()
    (folder / FILE).write_bytes(b"\0" * 500)
    with closing(Journal(folder, recall=unreadable)) as journal:
        for _ in range(2):
            with pytest.raises(Denied, match=r"changes are refused.*the audit log cannot be read"):
                journal.start("one", "x", tool="x")
    assert (folder / FILE).read_bytes() == b"\0" * 500


@pytest.mark.parametrize("kind", ["a folder", "a link"])
def test_an_unwritable_journal_refuses_changes_and_names_its_folder(kind: str, folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    if kind == "a folder":
        (folder / FILE).mkdir()
    else:
        (folder / FILE).symlink_to(tmp_path / "elsewhere")
    with closing(Journal(folder)) as journal, pytest.raises(Denied, match="changes are refused") as caught:
        journal.start("one", "x", tool="x")
    assert str(folder) in caught.value.hint and not (tmp_path / "elsewhere").exists()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_OPERATIONS", 20)
    monkeypatch.setattr(journal_module, "MIN_OPERATIONS", 10)
    monkeypatch.setattr(journal_module, "TRIM_INTERVAL", 5)


def test_the_newest_are_kept_and_the_oldest_dropped(small: None, folder: Path) -> None:
    with closing(Journal(folder)) as journal:
        for number in range(100):
            begin(journal, f"op-{number}")
            journal.end(f"op-{number}", OK)
        kept = [number for number in range(100) if journal.find(f"op-{number}")]
        assert kept == list(range(kept[0], 100)) and 20 <= len(kept) <= 24
        assert journal.find("op-99") == JournalEntry("call of op-99", OK)


def test_operations_dropped_for_their_age_are_not_restored_from_the_audit_log(
    small: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "CHECKED_OPERATIONS", 10)
    names = [f"op-{number}" for number in range(100)]
    with closing(Journal(folder)) as journal:
        begin(journal, *names)
    with closing(Journal(folder, recall=lambda: names)) as journal:
        assert journal.find("op-99") == JournalEntry("call of op-99", None) and journal.find("op-0") is None


@pytest.mark.parametrize("years", [-3, 3])
def test_recent_operations_survive_a_jump_of_the_clock(
    years: int, small: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    with closing(Journal(folder)) as journal:
        begin(journal, *(f"op-{number}" for number in range(24)))
        monkeypatch.setattr(time, "time", lambda: now + years * 365 * 86400)
        begin(journal, "later")
        assert all(journal.find(f"op-{number}") for number in range(15, 24)) and journal.find("later")


def test_operations_older_than_a_day_are_dropped(small: None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(journal_module, "MIN_OPERATIONS", 2)
    with closing(Journal(folder)) as journal:
        begin(journal, *(f"op-{number}" for number in range(24)))
        monkeypatch.setattr(time, "time", lambda: now + 86401)
        begin(journal, "later")
        assert [number for number in range(24) if journal.find(f"op-{number}")] == [23]


def test_old_results_are_dropped_before_operations(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_RESULTS", 100_000)
    words = {"ok": {"words": "x" * 1000}}
    with closing(Journal(folder)) as journal:
        for number in range(500):
            begin(journal, f"op-{number}")
            journal.end(f"op-{number}", words)
        first, last = journal.find("op-0"), journal.find("op-499")
        assert first is not None and first.end == {"dropped": "its result is no longer kept"}
        assert last is not None and last.end == words
        assert all(journal.find(f"op-{number}") for number in range(500))
    assert (folder / FILE).stat().st_size < 400_000


def test_the_file_of_older_versions_is_imported_once(folder: Path) -> None:
    lines: list[dict[str, object]] = [
        {"op": "done", "n": 1, "call": "call of done", "tool": "x", "at": 1.5, "end": OK},
        {"op": "begun", "n": 2, "call": "call of begun", "tool": "x", "at": 1.5},
        {"op": "failed", "n": 3, "call": "call of failed", "tool": "x", "at": 1.5},
        {"op": "void", "n": 4, "call": "call of void", "tool": "x", "at": 1.5},
        {"op": "void", "void": True},
        {"op": "failed", "end": {"dropped": "it failed"}},
        {"op": "torn", "n": 5, "call": "call of torn", "tool": "x", "at": 1.5},
    ]
    bodies = [json.dumps(line, separators=(",", ":")).encode("ascii") for line in lines]
    header = b'{"anvyl operations": 1, "begun": 5}'.ljust(63) + b"\n"
    folder.mkdir()
    old = folder / OLD_FILE
    old.write_bytes(header + b"".join(b"%08x %s\n" % (zlib.crc32(body), body) for body in bodies)[:-9])

    for _ in range(2):
        with closing(Journal(folder, recall=lambda: ["done", "damaged"])) as journal:
            assert journal.start("done", "call of done", tool="x") == JournalEntry("call of done", OK)
            assert journal.start("begun", "call of begun", tool="x") == JournalEntry("call of begun", None)
            assert journal.find("failed") == JournalEntry("call of failed", {"dropped": "it failed"})
            assert journal.find("damaged") == JournalEntry("", None)
            assert journal.find("void") is None and journal.find("torn") is None
        assert not old.exists()


def keep_writing(folder: str) -> None:
    """Begin and end operations forever, and print each one that began."""
    journal_module.MAX_OPERATIONS, journal_module.TRIM_INTERVAL = 50, 10
    with closing(Journal(Path(folder))) as journal:
        for number in range(1_000_000):
            name = f"{os.getpid()}-{number}"
            begin(journal, name)
            print(name, flush=True)  # noqa: T201  the parent reads it
            journal.end(name, {"ok": {"words": "x" * (number % 700)}})


def test_a_writer_killed_at_any_moment_loses_no_operation_that_began(folder: Path) -> None:
    program = f"from tests.server.calls.test_journal import keep_writing; keep_writing({str(folder)!r})"
    for round_ in range(3):
        with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            names = [writer.stdout.readline().strip() for _ in range(20 + 13 * round_)]
            writer.kill()
            names += [line.strip() for line in writer.stdout]
        with closing(Journal(folder)) as journal:
            assert all(journal.find(name) for name in names[-40:])
    assert not [file for file in folder.iterdir() if ".bad-" in file.name]


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
