"""The audit log: intact after every fault, and tamper-evident."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from anvyl_mcp.core import file_locks
from anvyl_mcp.core.errors import AnvylError, Cancelled, Conflict, Denied, Timeout, Unknown
from anvyl_mcp.server.audit.log import Audit, Entry, outcome_of
from anvyl_mcp.server.audit.reader import HEAD, LOG, parse_record

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def audit(folder: Path) -> Iterator[Audit]:
    with closing(Audit(folder)) as opened:
        yield opened


def begin(audit: Audit, tool: str = "stop_container", *, changes: bool = True, **arguments: Any) -> Entry:
    return audit.begin(
        tool, arguments, who="laptop", how="token", address="10.0.0.7", operation="op-1", changes=changes
    )


def change(audit: Audit, **arguments: Any) -> None:
    audit.end(begin(audit, **arguments), "ok")


def read(audit: Audit, **arguments: Any) -> None:
    audit.end(begin(audit, "list_containers", changes=False, **arguments), "ok")


@contextmanager
def in_process(call: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a function of this file in another process until the block ends."""
    program = f"from tests.server.audit.test_audit import {call}; import sys; {call}(*sys.argv[1:])"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_change_is_recorded_before_it_acts_and_when_it_ends(audit: Audit, folder: Path) -> None:
    entry = begin(audit, name="web")
    before = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    audit.end(entry, "failed", "conflict")
    first, second = (json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines())

    assert before == [first]
    assert (first["outcome"], first["error"], first["seconds"], first["started"]) == ("started", None, None, None)
    assert (second["outcome"], second["error"], second["started"]) == ("failed", "conflict", first["seq"])
    assert second["seconds"] >= 0
    for record in (first, second):
        assert record["who"] == "laptop" and record["how"] == "token" and record["address"] == "10.0.0.7"
        assert record["tool"] == "stop_container" and record["arguments"] == {"name": "web"}
        assert record["operation"] == "op-1"
        assert datetime.fromisoformat(record["time"]).utcoffset() == timedelta(0)
    assert (second["seq"], second["prev"]) == (2, first["hash"])


def test_a_read_is_recorded_once_after_it_ends(audit: Audit, folder: Path) -> None:
    entry = begin(audit, "list_containers", changes=False, all=True)
    assert not folder.exists()
    audit.end(entry, "ok")

    (record,) = audit.read()
    assert (record.tool, record.arguments, record.outcome, record.started) == (
        "list_containers",
        {"all": True},
        "ok",
        None,
    )


def test_reading_shows_each_call_once_and_applies_filters(audit: Audit) -> None:
    read(audit)
    change(audit, name="web")
    lost = begin(audit, name="lost")
    audit.end(begin(audit, "remove_container", name="web"), "denied", "denied")

    shown = audit.read()
    assert [(one.tool, one.outcome) for one in shown] == [
        ("list_containers", "ok"),
        ("stop_container", "ok"),
        ("stop_container", "started"),
        ("remove_container", "denied"),
    ]
    assert [one.seq for one in audit.read(tool="stop_container")] == [3, lost.started]
    assert [one.tool for one in audit.read(limit=1)] == ["remove_container"]
    assert audit.read(who="unknown") == []
    assert len(audit.read(operation="op-1", since=datetime.now(UTC) - timedelta(minutes=1))) == 4
    assert audit.read(since=datetime.now(UTC) + timedelta(minutes=1)) == []
    assert audit.read()[0].as_dict()["outcome"] == "ok"


def test_an_empty_log_is_intact(audit: Audit) -> None:
    assert audit.read() == []
    assert (audit.verify().records, audit.verify().problem) == (0, "")
    audit.open()
    assert (audit.verify().records, audit.verify().problem) == (0, "")


def test_it_is_readable_by_its_owner_only(folder: Path) -> None:
    before = os.umask(0)
    try:
        folder.mkdir(mode=0o777)
        (folder / LOG).touch(mode=0o666)
        with closing(Audit(folder)) as audit:
            change(audit)
    finally:
        os.umask(before)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        LOG: 0o600,
        HEAD: 0o600,
        "reserve": 0o600,
    }


@pytest.mark.parametrize(
    ("error", "changes", "written"),
    [
        (None, True, ("ok", "")),
        (Denied("no"), True, ("denied", "denied")),
        (Conflict("no"), True, ("failed", "conflict")),
        (Unknown("lost"), True, ("unknown", "unknown")),
        (Timeout("slow"), True, ("unknown", "timeout")),
        (Timeout("slow"), False, ("failed", "timeout")),
        (Cancelled("stop"), True, ("cancelled", "cancelled")),
        (KeyError("bug"), True, ("failed", "internal_error")),
        (KeyboardInterrupt(), True, ("cancelled", "cancelled")),
    ],
    ids=str,
)
def test_every_end_has_an_outcome(error: BaseException | None, changes: bool, written: tuple[str, str]) -> None:
    assert outcome_of(error, changes=changes) == written


# Planted as a secret in arguments; must never be written to the log.
SECRET = "hunter2geheim"


@pytest.mark.parametrize(
    "arguments",
    [
        {"env": [f"DB_PASSWORD={SECRET}", "MODE=fast"]},
        {"env": f"API_KEY={SECRET} with spaces {SECRET}"},
        {"env": [f"URL=postgres://app:{SECRET}@db/x"]},
        {"labels": [f"traefik.basicauth.users=me:{SECRET}"]},
        {"password": SECRET},
        {"token": [SECRET]},
        {"secret": {"a": SECRET}},
        {"command": f"mysql --password={SECRET} db"},
        {"command": f"mysql --password '{SECRET} x{SECRET}' db"},
        {"command": f'mysql --password="{SECRET}\\" {SECRET}" db'},
        {"command": f"mysql -uroot -p{SECRET} db"},
        {"command": f"mysql -u root -p {SECRET}"},
        {"command": f"sh -c 'mysql -uroot -p{SECRET} db'"},
        {"command": f"sh -c 'mysql --password={SECRET} db' && sh -c 'ls'"},
        {"command": f'sh -c "mysql --password=\\"a {SECRET}\\" db"'},
        {"command": f"sh -c 'PGPASSWORD={SECRET} psql'"},
        {"command": f"env PGPASSWORD='a {SECRET}' psql"},
        {"command": f"sshpass -p {SECRET} ssh nas"},
        {"command": f"redis-cli -h db -a {SECRET} ping"},
        {"command": f"docker login -u me -p {SECRET} registry"},
        {"command": f"curl -u me:{SECRET} http://nas"},
        {"command": f"curl -H 'Authorization: Bearer {SECRET}' http://nas"},
        {"command": f'curl -H "X-Api-Key: {SECRET}" http://nas'},
        {"command": f"curl http://me:a@{SECRET}@nas/x"},
        {"command": f"git clone https://{SECRET}@nas/x.git"},
        {"command": f"curl http://nas/?x=1&access_token={SECRET}"},
        {"command": f'curl -d \'{{"password": "{SECRET}"}}\' http://nas'},
        {"command": f"java -Dspring.password={SECRET} -jar x"},
        {"command": f"openssl rsa -passin pass:{SECRET}"},
        {"command": f"echo anv_{SECRET}"},
        {"command": f"echo ghp_{SECRET}{SECRET}"},
        {"command": f"echo '-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----'"},
        {"command": "x" * 5000 + SECRET},
        {"pass\x00word": SECRET},
        {"command": f"x --pass\x1b[0mword={SECRET}"},
        {"one": {"two": {"three": {"four": SECRET}}}},
        {"list": ["x"] * 60 + [SECRET]},
    ],
    ids=lambda given: ascii(given)[:60],
)
def test_a_secret_in_the_arguments_is_never_written(arguments: dict[str, Any], audit: Audit, folder: Path) -> None:
    audit.end(begin(audit, "create_container", **arguments), "ok")

    assert SECRET not in (folder / LOG).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "web", "force": True, "tail": 100, "cpus": 1.5, "since": ""},
        {"image": "registry.local:5000/auth/keycloak:1.2", "ports": ["8080:80", "127.0.0.1:53:53/udp"]},
        {"volumes": ["/etc/secrets:/run/secrets:ro", "data:/data"], "network": "auth-net"},
        {"command": "sh -c 'ls -la /srv | grep -v tmp && du -sh --max-depth=1'"},
        {"command": "mkdir -p /srv/data"},
        {"command": "find / -path /srv -prune -o -print"},
        {"command": "docker run -p8080:80 nginx"},
        {"command": "ps -p 12"},
        {"env": ["MODE=fast", "HOME=/srv/x", "EMPTY="]},
    ],
    ids=lambda given: ascii(given)[:60],
)
def test_harmless_arguments_are_written_unchanged(arguments: dict[str, Any], audit: Audit) -> None:
    audit.end(begin(audit, "create_container", **arguments), "ok")

    assert audit.read()[0].arguments == arguments


def test_long_values_are_cut_with_their_length(audit: Audit, folder: Path) -> None:
    change(audit, command="a" * 1_000_000, image="b" * 300, list=["c"] * 70, **{f"x{n}": "d" * 190 for n in range(20)})
    change(audit, **{f"x{n}": ["e" * 190] * 50 for n in range(40)})

    first, second = audit.read()
    assert first.arguments is not None and second.arguments is not None
    assert first.arguments["command"] == "a" * 100 + " … " + "a" * 100 + " (1000000 characters)"
    assert first.arguments["image"] == "b" * 100 + " … " + "b" * 100 + " (300 characters)"
    assert first.arguments["list"][-1] == "… 20 more"
    assert set(second.arguments) == {f"x{n}" for n in range(40)} | {"sha256"}
    assert max(len(line) for line in (folder / LOG).read_bytes().splitlines()) < 16 * 1024


def test_padding_hides_neither_the_end_of_a_value_nor_the_other_arguments(audit: Audit) -> None:
    change(
        audit,
        image="busybox",
        command="sh -c '" + " " * 5000 + "echo EVIL'",
        env=[f"A{n}=" + "x" * 190 for n in range(50)],
    )

    (record,) = audit.read()
    assert record.arguments is not None
    assert record.arguments["image"] == "busybox"
    assert "echo EVIL" in record.arguments["command"]
    assert len(record.arguments["sha256"]) == 16


def test_control_characters_are_escaped(audit: Audit, folder: Path) -> None:
    evil = 'x\n{"seq":9}\r\x1b[31m\u202e\u2028\x85\ud800"'
    audit.end(
        audit.begin(evil, {evil: [evil]}, who=evil, how=evil, address=evil, operation=evil, changes=True), "ok", evil
    )

    assert len((folder / LOG).read_bytes().split(b"\n")) == 3
    (record,) = audit.read()
    shown = [record.tool, record.who, record.how, record.address, record.operation, *(record.arguments or {})]
    for text in [*shown, record.error or ""]:
        assert text.isprintable() and text.startswith("x\\n"), ascii(text)
        text.encode("utf-8")
    assert audit.verify().problem == ""


def lines_in(folder: Path) -> list[bytes]:
    return (folder / LOG).read_bytes().splitlines(keepends=True)


def rehashed(line: bytes, **changed: Any) -> bytes:
    """A forged line with a correct hash of its own."""
    record = {**json.loads(line), **changed}
    record.pop("hash")
    body = json.dumps(record, separators=(",", ":")).encode()
    digest = hashlib.sha256(body).hexdigest()
    return body[:-1] + f',"hash":"{digest}"}}\n'.encode()


def flip(lines: list[bytes], at: int) -> list[bytes]:
    line = lines[at]
    middle = len(line) // 2
    return [*lines[:at], line[:middle] + bytes([line[middle] ^ 1]) + line[middle + 1 :], *lines[at + 1 :]]


def forge(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[:at], rehashed(lines[at], who="mallory"), *lines[at + 1 :]]


def remove(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[:at], *lines[at + 1 :]]


def swap(lines: list[bytes], at: int) -> list[bytes]:
    other = (at + 1) % len(lines)
    lines[at], lines[other] = lines[other], lines[at]
    return lines


def repeat(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[: at + 1], *lines[at:]]


def blank(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[:at], b"\n", *lines[at:]]


def cut_from(lines: list[bytes], at: int) -> list[bytes]:
    return lines[:at]


def rewrite_from(lines: list[bytes], at: int) -> list[bytes]:
    """Forge one line and rehash all lines after it."""
    previous = json.loads(lines[at])["prev"]
    written = lines[:at]
    for line in lines[at:]:
        written.append(rehashed(line, prev=previous, who="mallory"))
        previous = json.loads(written[-1])["hash"]
    return written


@pytest.mark.parametrize("mutate", [flip, forge, remove, swap, repeat, blank, cut_from, rewrite_from])
def test_an_altered_line_is_found_at_any_position(
    mutate: Callable[[list[bytes], int], list[bytes]], audit: Audit, folder: Path
) -> None:
    for number in range(6):
        change(audit, name=f"web-{number}")
        read(audit)
    whole = audit.verify()
    lines = lines_in(folder)
    assert (whole.records, whole.files, whole.problem) == (18, 1, "")
    assert whole.head == json.loads(lines[-1])["hash"]

    for at in range(len(lines)):
        changed = mutate(list(lines), at)
        (folder / LOG).write_bytes(b"".join(changed))
        problem = audit.verify().problem
        assert problem, (mutate.__name__, at)
        if mutate in (flip, remove, blank) and at < len(lines) - 1:
            assert f"line {at + 1}: record {at + 1} " in problem, problem
        elif mutate is forge:
            # Its own hash is correct: only the next line, or the head, reveals it.
            assert f"record {at + 1}" in problem or f"record {at + 2} " in problem, problem
        elif mutate is cut_from:
            assert problem.endswith(f"records {at + 1} to 18 are missing"), problem
    (folder / LOG).write_bytes(b"".join(lines))
    assert audit.verify() == whole


def test_truncated_records_stay_missing_after_later_writes(audit: Audit, folder: Path) -> None:
    for _ in range(5):
        read(audit)
    (folder / LOG).write_bytes(b"".join(lines_in(folder)[:3]))
    for _ in range(3):
        read(audit)

    found = audit.verify()
    assert found.problem == f"{LOG}, line 4: record 4 is missing here: the line holds record 6"
    assert "records 4 to 5 are missing" in str(audit.read()[3].arguments)


def test_a_deleted_log_is_noticed(audit: Audit, folder: Path) -> None:
    for _ in range(5):
        read(audit)
    (folder / LOG).unlink()

    assert audit.verify().problem == "the log ends too early: records 1 to 5 are missing"
    read(audit)
    assert audit.verify().problem == f"{LOG}, line 1: record 1 is missing here: the line holds record 6"


def test_a_missing_head_is_reported_and_rebuilt(audit: Audit, folder: Path) -> None:
    for _ in range(3):
        read(audit)
    (folder / HEAD).unlink()

    assert "`head` is missing" in audit.verify().problem
    read(audit)
    found = audit.verify()
    assert (found.records, found.problem) == (5, "")
    assert "`head` was missing" in found.notes[0]


@pytest.mark.parametrize("junk", [b'{"seq":4,"time":"20', b"\x00" * 5000, b"not a record\n", b"\xff\xfe\n\n\n"])
def test_a_torn_end_is_set_aside_and_reported(junk: bytes, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(Audit(folder)) as audit:
        for _ in range(3):
            read(audit)
    with (folder / LOG).open("ab") as file:
        file.write(junk)

    with closing(Audit(folder)) as audit:
        assert audit.verify().problem.startswith(f"{LOG}, line 4: record 4 was altered, or its line is torn")
        audit.open()
        (kept,) = folder.glob(f"{LOG}.bad-*")
        read(audit)
        found = audit.verify()

    assert kept.read_bytes() == junk
    assert (found.records, found.problem) == (5, "")
    assert found.notes == (f"record 4: {len(junk)} damaged bytes at the end of {LOG} were kept as {kept.name}",)
    assert kept.name in caplog.text


def test_writing_continues_after_truncation_at_any_position(folder: Path) -> None:
    with closing(Audit(folder)) as audit:
        for number in range(3):
            read(audit, name=f"web-{number}")
    whole = (folder / LOG).read_bytes()
    head = (folder / HEAD).read_bytes()
    starts = [0, *(at + 1 for at, byte in enumerate(whole) if byte == 10)]
    for size in range(0, len(whole), 7):
        for old in folder.glob(f"{LOG}.bad-*"):
            old.unlink()
        (folder / LOG).write_bytes(whole[:size])
        (folder / HEAD).write_bytes(head)
        with closing(Audit(folder)) as audit:
            audit.open()
            change(audit)
            left = sum(1 for start in starts[1:] if start <= size)
            problem = audit.verify().problem
            assert f"record {left + 1} is missing here" in problem, (size, problem)
            assert (size in starts) != any(folder.glob(f"{LOG}.bad-*")), size
            assert audit.read()[-1].outcome == "ok"


def test_a_writer_killed_before_its_first_head_leaves_an_intact_chain(audit: Audit, folder: Path) -> None:
    read(audit)
    (folder / HEAD).write_bytes(b"")

    read(audit)

    assert (audit.verify().records, audit.verify().problem, audit.verify().notes) == (2, "", ())


def test_a_writer_killed_before_updating_the_head_leaves_an_intact_chain(audit: Audit, folder: Path) -> None:
    read(audit)
    head = (folder / HEAD).read_bytes()
    read(audit)
    (folder / HEAD).write_bytes(head)

    assert audit.verify().problem == ""
    read(audit)
    assert (audit.verify().records, audit.verify().problem, audit.verify().notes) == (3, "", ())


def write_forever(folder: str) -> None:
    """Record changes forever, and print the number of each one that began."""
    audit = Audit(Path(folder))
    while True:
        entry = begin(audit, name="web")
        sys.stdout.write(f"{entry.started}\n")
        sys.stdout.flush()
        audit.end(entry, "ok")


def test_kill_9_at_any_moment_leaves_an_intact_chain(folder: Path) -> None:
    chance = random.Random(1)
    begun = 0
    for _ in range(20):
        with in_process("write_forever", folder) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randrange(1, 40)):
                begun = int(writer.stdout.readline())
            writer.kill()
            begun = max([begun, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
        with closing(Audit(folder)) as audit:
            audit.open()
            found = audit.verify()
            assert (found.problem, found.notes) == ("", ())
            assert found.records >= begun

    with closing(Audit(folder)) as audit:
        interrupted = [one for one in audit.read(limit=100_000) if one.outcome == "started"]
    assert len(interrupted) <= 20


def append_many(folder: str, name: str, count: str) -> None:
    """Write many records: alternating changes and reads."""
    audit = Audit(Path(folder), largest=32 * 1024, keep=50)
    for number in range(int(count) // 4):
        change(audit, name=name, number=number)
        read(audit, name=name, number=number)
        read(audit, name=name, number=number)


def test_two_processes_write_one_intact_chain(folder: Path) -> None:
    with (
        in_process("append_many", folder, "first", 200) as first,
        in_process("append_many", folder, "second", 200) as second,
        closing(Audit(folder)) as reader,
    ):
        while first.poll() is None or second.poll() is None:
            assert reader.verify().problem == ""
        assert (first.returncode, second.returncode) == (0, 0), first.communicate() + second.communicate()
        found = reader.verify()
        shown = reader.read()

    assert (found.records, found.problem, found.notes) == (400, "", ())
    assert found.files > 3
    for name in ("first", "second"):
        numbers = [one.arguments["number"] for one in shown if one.arguments and one.arguments["name"] == name]
        assert numbers == sorted(list(range(50)) * 3)


def test_threads_of_one_process_write_one_intact_chain(audit: Audit) -> None:
    def many() -> None:
        for _ in range(25):
            change(audit)

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert (audit.verify().records, audit.verify().problem) == (400, "")


def test_rotation_removes_old_files_and_the_chain_continues_across_the_rest(folder: Path) -> None:
    with closing(Audit(folder, largest=2000, keep=4)) as audit:
        for _ in range(100):
            read(audit)
        found = audit.verify()

        files = [*sorted(folder.glob("audit-*.jsonl")), folder / LOG]
        assert len(files) == found.files == 4
        assert all(file.stat().st_size <= 2000 for file in files)
        assert found.problem == "" and 0 < found.records < 100
        for before, after in pairwise(files):
            last = parse_record(before.read_bytes().splitlines()[-1])
            first = parse_record(after.read_bytes().splitlines()[0])
            assert last and first and first["prev"] == last["hash"] and first["seq"] == last["seq"] + 1
        assert files[0].stem == f"audit-{audit.read()[0].seq:012}"

        shutil.move(files[0], folder / "away")
        assert "is missing here" in audit.verify().problem
        shutil.move(folder / "away", files[0])
        shutil.move(files[1], folder / "away")
        assert f"{files[2].name}, line 1: " in audit.verify().problem


@pytest.mark.parametrize("stop", ["before the new file", "before its first line"])
def test_a_crash_during_rotation_loses_nothing(stop: str, folder: Path) -> None:
    with closing(Audit(folder, largest=2000, keep=4)) as audit:
        for _ in range(8):
            read(audit)
    names = {path.name for path in folder.iterdir()}
    shutil.move(folder / LOG, folder / f"audit-{json.loads((folder / HEAD).read_bytes())['opened']:012}.jsonl")
    if stop == "before its first line":
        (folder / LOG).touch()

    with closing(Audit(folder, largest=2000, keep=4)) as audit:
        assert audit.verify().problem == ""
        for _ in range(8):
            read(audit)
        found = audit.verify()
    assert (found.records, found.problem, found.notes) == (16, "", ())
    assert names < {path.name for path in folder.iterdir()}


def test_an_unwritable_log_refuses_changes_and_allows_reads(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.write_text("in the way", encoding="utf-8")
    with closing(Audit(folder)) as audit:
        audit.open()
        with pytest.raises(Denied) as refused:
            begin(audit)
        read(audit)
        read(audit)
        assert refused.value.message.startswith("changes are refused: the audit log cannot be written: ")
        assert str(folder) in refused.value.hint
        assert audit.trouble.startswith("the audit log cannot be written")
        assert len([record for record in caplog.records if record.name == "anvyl_mcp.server.audit.log"]) == 1

        folder.unlink()
        change(audit)
        assert audit.trouble == "" and audit.verify().records == 2


def test_a_hanging_writer_does_not_block_other_writers(
    audit: Audit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(audit)
    monkeypatch.setattr(file_locks, "DEFAULT_TIMEOUT", 0.05)
    with (folder / HEAD).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Denied, match="another part of this process holds it"):
            begin(audit)
        with pytest.raises(AnvylError, match="cannot be read: another part of this process holds it") as unread:
            audit.verify()
        assert "fuser" in unread.value.hint
        with pytest.raises(AnvylError, match="cannot be read"):
            audit.read()
        read(audit)
    change(audit)

    assert (audit.verify().records, audit.verify().problem) == (3, "")


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_partly_written_line_is_removed(room: int, audit: Audit, folder: Path) -> None:
    """The kernel writes what fits and reports it as a short write."""
    change(audit)
    whole = (folder / LOG).read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + room, before[1]))
    try:
        with pytest.raises(Denied, match="changes are refused"):
            begin(audit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert (folder / LOG).read_bytes() == whole
    change(audit)
    assert (audit.verify().records, audit.verify().problem, audit.verify().notes) == (4, "", ())


def fill_the_disk(folder: str) -> None:
    """Check the log while a disk becomes full, and after space is freed."""
    home = Path(folder)
    audit = Audit(home / "audit")
    audit.open()
    change(audit, name="before")
    pending = begin(audit, name="pending")
    reserved = (home / "audit/reserve").stat().st_size
    assert 64 * 1024 <= reserved <= 256 * 1024, reserved
    with (home / "filler").open("wb", buffering=0) as filler:
        for size in (4096, 1):
            try:
                while filler.write(b"x" * size):
                    pass
            except OSError:
                continue

    began = time.monotonic()
    for _ in range(50):
        try:
            begin(audit, name="refused")
        except Denied as refused:
            assert "No space left on device" in refused.message, refused
            assert f"free space on the disk of {home}/audit" in refused.hint, refused
        else:
            raise AssertionError("a change was allowed on a full disk")
    assert time.monotonic() - began < 1
    for _ in range(50):
        read(audit)
    assert "No space left on device" in audit.trouble, audit.trouble
    assert audit.verify().problem == "", audit.verify()
    raw = (home / "audit" / LOG).read_bytes()
    assert raw.endswith(b"\n") and all(parse_record(line) for line in raw.splitlines())

    audit.end(pending, "ok")
    assert audit.trouble == "" and audit.read()[-1].arguments == {"name": "pending"}
    assert (home / "audit/reserve").stat().st_size == 0
    try:
        begin(audit, name="refused")
    except Denied:
        pass
    else:
        raise AssertionError("the reserve is not for new changes")

    (home / "filler").unlink()
    change(audit, name="after")
    assert audit.trouble == ""
    assert (home / "audit/reserve").stat().st_size == reserved
    found = audit.verify()
    assert (found.problem, found.notes) == ("", ()), found
    names = [one.arguments["name"] for one in audit.read() if one.arguments and one.outcome == "ok" and one.arguments]
    assert names == ["before", "pending", "after"], names
    sys.stdout.write("recovered\n")


def test_the_log_survives_a_full_disk(tmp_path: Path) -> None:
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("mounting a small disk needs root and `unshare` on Linux")
    inside = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    program = "from tests.server.audit.test_audit import fill_the_disk; import sys; fill_the_disk(sys.argv[1])"
    command = ["unshare", "--mount", "sh", "-c", inside, str(tmp_path), sys.executable, "-c", program, str(tmp_path)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (0, "recovered\n"), done.stderr
