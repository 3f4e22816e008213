"""The journal of operations: nothing that began is forgotten, whatever happens to the file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from anvyl_mcp.errors import AnvylError, Denied
from anvyl_mcp.server.journal import FILE, LARGEST, LONGEST, Journal, Known

ROOT = Path(__file__).parent.parent
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


def test_what_began_and_how_it_ended_is_known_also_after_a_restart(journal: Journal, folder: Path) -> None:
    begin(journal, "one", "two", "three")
    journal.end("one", OK)
    journal.void("three")

    for reader in (journal, Journal(folder)):
        with closing(reader):
            assert reader.find("one") == Known("call of one", OK)
            assert reader.find("two") == Known("call of two", None)
            assert reader.find("three") is None and reader.find("four") is None
            assert reader.start("one", "call of one", tool="x") == Known("call of one", OK)
            assert reader.start("two", "call of two", tool="x") == Known("call of two", None)


def test_two_processes_see_what_the_other_wrote(journal: Journal, folder: Path) -> None:
    begin(journal, "mine")
    with closing(Journal(folder)) as other:
        begin(other, "theirs")
        journal.end("mine", OK)
        assert other.find("mine") == Known("call of mine", OK)
    assert journal.find("theirs") == Known("call of theirs", None)


def test_nobody_else_may_read_it(journal: Journal, folder: Path) -> None:
    before = os.umask(0)
    try:
        begin(journal, "one")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in folder.iterdir())


@pytest.mark.parametrize("long", ["ok", "error"])
def test_a_large_ending_is_not_kept_but_that_there_was_one_is(journal: Journal, long: str, folder: Path) -> None:
    begin(journal, "one")
    journal.end("one", {long: {"words": "x" * LONGEST}})

    known = journal.find("one")

    assert known is not None and known.end is not None and set(known.end) == {"dropped"}
    assert (folder / FILE).stat().st_size < LONGEST


def test_a_file_cut_off_anywhere_forgets_nothing_that_the_audit_log_knows(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["one", "two", "three"]
    with closing(Journal(folder)) as journal:
        begin(journal, *names)
        journal.end("one", OK)
        journal.end("two", {"error": {"code": "conflict", "message": "no", "hint": ""}})
    whole = (folder / FILE).read_bytes()

    for size in range(len(whole)):
        for file in folder.iterdir():
            file.unlink()
        (folder / FILE).write_bytes(whole[:size])
        with closing(Journal(folder, recall=lambda: names)) as journal:
            journal.open()
            assert all(journal.start(name, f"call of {name}", tool="x") is not None for name in names), size
            begin(journal, "four")
        aside = [file for file in folder.iterdir() if ".bad-" in file.name]
        cut_into_ends_only = size >= whole.index(b'"op":"one","end"') - 10
        assert (aside == []) == cut_into_ends_only, size
        assert all(file.read_bytes() == whole[:size] for file in aside)
        with closing(Journal(folder, recall=tuple)) as again:
            assert all(again.find(name) is not None for name in [*names, "four"]), size
    assert "damaged" in caplog.text


def test_a_damaged_line_in_the_middle_costs_that_line_only(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(Journal(folder)) as journal:
        begin(journal, "one", "two", "three")
        journal.end("three", OK)
    file = folder / FILE
    file.write_bytes(file.read_bytes().replace(b'"op":"two"', b'"op":"owt"'))

    with closing(Journal(folder, recall=lambda: ["one", "two", "three"])) as journal:
        assert journal.find("one") == Known("call of one", None)
        assert journal.find("two") == Known("", None)
        assert journal.find("three") == Known("call of three", OK)

    assert [file.name for file in folder.iterdir() if ".bad-" in file.name]
    assert "1 lines of it are damaged" in caplog.text and "1 operations were taken from the audit log" in caplog.text


def test_a_removed_file_is_made_again_from_the_audit_log(folder: Path) -> None:
    with closing(Journal(folder, recall=lambda: ["one"])) as journal:
        begin(journal, "two")
        assert journal.find("one") == Known("", None)
        (folder / FILE).unlink()
        assert journal.find("one") == Known("", None)


def test_a_damaged_journal_without_an_audit_log_to_help_lets_nothing_begin(folder: Path) -> None:
    def unreadable() -> list[str]:
        raise AnvylError("the audit log cannot be read: Input/output error")

    folder.mkdir()
    (folder / FILE).write_bytes(b"\0" * 500)
    with closing(Journal(folder, recall=unreadable)) as journal:
        for _ in range(2):
            with pytest.raises(Denied, match=r"changes are refused.*the audit log cannot help"):
                journal.start("one", "x", tool="x")
    assert (folder / FILE).read_bytes() == b"\0" * 500


def test_a_journal_that_may_not_be_written_refuses_and_says_why(folder: Path) -> None:
    folder.mkdir()
    (folder / FILE).mkdir()
    with closing(Journal(folder)) as journal, pytest.raises(Denied, match="changes are refused") as caught:
        journal.start("one", "x", tool="x")
    assert str(folder) in caught.value.hint


def test_the_newest_are_kept_and_the_oldest_dropped(folder: Path) -> None:
    with closing(Journal(folder, keep=20)) as journal:
        for number in range(100):
            begin(journal, f"op-{number}")
            journal.end(f"op-{number}", OK)
        kept = [number for number in range(100) if journal.find(f"op-{number}")]
        assert kept == list(range(kept[0], 100)) and 20 <= len(kept) <= 22
        assert journal.find("op-99") == Known("call of op-99", OK)
    with closing(Journal(folder, keep=20, recall=lambda: ["never asked"])) as journal:
        assert journal.find("op-99") == Known("call of op-99", OK) and journal.find("never asked") is None


@pytest.mark.parametrize("years", [-3, 3])
def test_a_clock_that_jumps_makes_nothing_recent_forgotten(
    years: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    with closing(Journal(folder, keep=20, least=10)) as journal:
        begin(journal, *(f"op-{number}" for number in range(22)))
        monkeypatch.setattr(time, "time", lambda: now + years * 365 * 86400)
        begin(journal, "later")
        assert all(journal.find(f"op-{number}") for number in range(14, 22)) and journal.find("later")


def test_after_a_day_the_older_ones_are_dropped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    with closing(Journal(folder, keep=20, least=2)) as journal:
        begin(journal, *(f"op-{number}" for number in range(22)))
        monkeypatch.setattr(time, "time", lambda: now + 86401)
        begin(journal, "later")
        assert [number for number in range(22) if journal.find(f"op-{number}")] == [21]


def test_results_give_way_before_operations_are_forgotten(folder: Path) -> None:
    words = {"ok": {"words": "x" * 1000}}
    with closing(Journal(folder, largest=20_000)) as journal:
        for number in range(50):
            begin(journal, f"op-{number}")
            journal.end(f"op-{number}", words)
        first, last = journal.find("op-0"), journal.find("op-49")
        assert first is not None and first.end == {"dropped": "its result is no longer kept"}
        assert last is not None and last.end == words
        assert (folder / FILE).stat().st_size < 25_000 < LARGEST


def keep_writing(folder: str) -> None:
    """Begin and end operations for ever, telling each that began."""
    with closing(Journal(Path(folder), keep=50)) as journal:
        for number in range(1_000_000):
            name = f"{os.getpid()}-{number}"
            begin(journal, name)
            print(name, flush=True)  # noqa: T201  the parent reads it
            journal.end(name, {"ok": {"words": "x" * (number % 700)}})


def test_a_writer_killed_at_any_moment_forgets_nothing_that_began(folder: Path) -> None:
    program = f"from tests.test_journal import keep_writing; keep_writing({str(folder)!r})"
    for round_ in range(3):
        with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            names = [writer.stdout.readline().strip() for _ in range(20 + 13 * round_)]
            writer.kill()
            names += [line.strip() for line in writer.stdout]
        with closing(Journal(folder, keep=50)) as journal:
            assert all(journal.find(name) for name in names[-40:])
    assert not [file for file in folder.iterdir() if ".bad-" in file.name]
