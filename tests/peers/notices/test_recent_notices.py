"""What a watch leaves for the page: problems that go on, and what is over."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from anvyl_mcp.orchestrator.api.watched_notices import NoticeView
from anvyl_mcp.peers.notices.mutes import Mute, MuteStore
from anvyl_mcp.peers.notices.notice import Level, Notice
from anvyl_mcp.peers.notices.recent_notices import MOST_PAST, RecentNoticesFile

WEB, DISK, WATCH = ("nas", "unhealthy", "web", ""), ("pi", "disk", "/", ""), ("pi", "watch", "", "")


def notice(key: tuple[str, ...], level: Level = "problem", at: float = 0.0) -> Notice:
    return Notice(f"{level}: {key[0]}", f"{key[0]} {key[2]} {level}.", level, at or time.time(), key)


def keys(notices: tuple[Notice, ...]) -> list[tuple[str, ...]]:
    return [one.key for one in notices]


def test_a_problem_stays_until_it_is_over_or_its_object_is_gone(tmp_path: Path) -> None:
    file = RecentNoticesFile(tmp_path)
    file.add([notice(WATCH)])
    file.record_check(30, {WEB, DISK}, [notice(WEB), notice(DISK)])
    file.record_check(30, {WEB, DISK}, [])
    assert keys(file.read().problems) == [WEB, DISK, WATCH] and file.read().past == ()

    file.record_check(30, {DISK}, [notice(WEB, "recovered")])
    assert keys(file.read().problems) == [DISK, WATCH] and keys(file.read().past) == [WEB]

    file.record_check(30, (), [])
    assert keys(file.read().problems) == [WATCH], "a host that was removed has no problems"
    file.add([notice(WATCH, "recovered")])
    assert file.read().problems == () and keys(file.read().past) == [WATCH, WEB]
    for _ in range(MOST_PAST):
        file.record_check(30, (), [notice(DISK, "recovered")])
    assert len(file.read().past) == MOST_PAST and WATCH not in keys(file.read().past)


def test_a_damaged_or_unwritable_file_stops_no_watch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = RecentNoticesFile(tmp_path)
    for content in ("", "[]", '{"problems": [{}], "past": [], "checked": 1, "every": 1}', "\x00"):
        (tmp_path / "notices.json").write_text(content, encoding="utf-8")
        assert file.read().problems == ()
    file.record_check(30, {WEB}, [notice(WEB)])
    assert keys(file.read().problems) == [WEB]

    nowhere = RecentNoticesFile(tmp_path / "notices.json" / "folder")
    for _ in range(2):
        nowhere.record_check(30, {WEB}, [notice(WEB)])
    assert caplog.text.count("cannot be written") == 1


def test_the_page_says_who_watches_and_what_is_muted(tmp_path: Path) -> None:
    assert NoticeView(tmp_path).read().checked is None
    file, now = RecentNoticesFile(tmp_path), time.time()
    file.record_check(30, {WEB, DISK}, [notice(WEB), notice(DISK)])
    MuteStore(tmp_path).add(Mute(now + 60, "nas", "web"), now)

    seen = NoticeView(tmp_path, standby_for="nas").read()
    assert seen.watching and [(one.host, one.subject, one.muted) for one in seen.problems] == [
        ("nas", "web", True),
        ("pi", "/", False),
    ]
    assert [one.host for one in NoticeView(tmp_path, host="pi").read().problems] == ["pi"]

    file._write(now - 3600, 30, file.read().problems, (), [])
    assert not NoticeView(tmp_path).read().watching and len(NoticeView(tmp_path).read().problems) == 2
    waiting = NoticeView(tmp_path, standby_for="nas").read()
    assert waiting.problems == [] and waiting.standby_for == "nas"
