"""Tables and other drawing, without a terminal."""

from __future__ import annotations

import io

import pytest

from anvyl_mcp import text
from anvyl_mcp.cli import screen, tables

ROWS = [
    ["nas", "web", "Up 2 hours", "registry.example.com/team/web:1.27"],
    ["gpu", "数据库", "Exited (0) 3 hours ago", "postgres:17"],
]


def test_columns_are_aligned_also_under_wide_letters() -> None:
    head, first, second = tables.lines(["host", "name", "status", "image"], ROWS)

    assert head == "HOST  NAME    STATUS           IMAGE"
    assert first == "nas   web     up 2 h           registry.example.com/team/web:1.27"
    assert second == "gpu   数据库  exited (0), 3 h  postgres:17"


@pytest.mark.parametrize("columns", [41, 45, 55])
def test_a_table_is_no_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))

    drawn = tables.lines(["host", "name", "status", "image"], ROWS)

    assert max(map(screen.width, drawn)) <= columns
    assert drawn[1].endswith("1.27") and "…" in drawn[1]


FLEET = [
    ["nas", "immich_server", "Up 21 minutes (unhealthy)", "ghcr.io/immich-app/immich-server:v1.111.0", "2283->80"],
    ["nas", "jellyfin", "Up About an hour (healthy)", "jellyfin/jellyfin:10.9.7", "127.0.0.1:8096->8096, 8920"],
    ["workshop", "nextcloud-app-1", "Restarting (1) 5 seconds ago", "nextcloud:29", ""],
    ["workshop", "nextcloud-db-1", "Up 3 days (Paused)", "postgres:16", "5432"],
]
USE = ["host", "name", "cpu_percent", "memory_used", "memory_limit", "net_rx", "net_tx", "pids"]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_state_is_readable_at_every_width_and_without_colour(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))

    head, *drawn = tables.lines(["host", "name", "status", "image", "ports"], FLEET)

    assert max(map(screen.width, [head, *drawn])) <= columns
    for (host, name, *_), line in zip(FLEET, drawn, strict=True):
        assert line.split()[:2] == [host, name]
    assert [line[head.index("STATUS") :].split("  ")[0] for line in drawn] == [
        "unhealthy, 21 min",
        "healthy, 1 h",
        "restarting (1), 5 s",
        "paused, 3 days",
    ]


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_number_is_shown_whole_or_not_at_all(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    figures = ["0 %", "888 KiB", "23.5 GiB", "1.27 KiB", "0 B", "2"]

    head, row = tables.lines(USE, [["workshop", "nextcloud-app-1", *figures]])

    assert max(map(screen.width, [head, row])) <= columns
    assert "…" not in row and "nextcloud-app-1" in row and "0 %" in row


@pytest.mark.parametrize(
    ("status", "short"),
    [
        ("Up Less than a second", "up 0 s"),
        ("Up 1 second (health: starting)", "starting, 1 s"),
        ("Up About a minute", "up 1 min"),
        ("Up 2 weeks", "up 2 weeks"),
        ("Exited (137) 2 months ago", "exited (137), 2 months"),
        ("Exited (0) About an hour ago", "exited (0), 1 h"),
        ("Created", "created"),
        ("Removal In Progress", "removing"),
        ("unreachable", "unreachable"),
        ("Up to you (whatever) happens", "Up to you (whatever) happens"),
        ("", ""),
    ],
)
def test_what_matters_in_a_status_comes_first(status: str, short: str) -> None:
    assert text.short_status(status) == short


def test_words_break_between_words_and_names_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    url = "https://registry.example.com/a/very/long/path"

    lines = screen.wrapped(f"error: no host has nextcloud-app-1 数据库数据库 at {url} now", stream, 7).split("\n")

    later = ["nextcloud-app-1", "数据库数据库 at", url, "now"]
    assert lines == ["error: no host has", *(f"       {words}" for words in later)]
    assert screen.wrapped("a " * 40, io.StringIO()) == "a " * 40


def test_numbers_stand_at_the_right() -> None:
    assert tables.lines(["name", "cpu_percent"], [["web", "5 %"], ["db", "100 %"], ["new", ""]]) == [
        "NAME  CPU %",
        "web     5 %",
        "db    100 %",
        "new",
    ]


@pytest.mark.parametrize(
    ("words", "room", "cut"),
    [
        ("short", 5, "short"),
        ("Up 2 hours (healthy)", 10, "Up 2 hour…"),
        ("registry.example.com/web:1.27", 15, "registr…eb:1.27"),
        ("数据库数据库", 5, "数据…"),
    ],
)
def test_what_does_not_fit_is_cut(words: str, room: int, cut: str) -> None:
    assert screen.cut(words, room) == cut
    assert screen.width(screen.cut(words, room)) <= room


@pytest.mark.parametrize(
    ("cell", "colour"),
    [
        ("Up 2 hours", "green"),
        ("Up 2 hours (unhealthy)", "red"),
        ("unhealthy, 2 h", "red"),
        ("healthy, 2 h", "green"),
        ("Exited (0) 2 days ago", "dim"),
        ("█████  95 % of 2 GiB", "red"),
        ("████░  80 %", "yellow"),
        ("web", ""),
    ],
)
def test_a_state_has_a_colour(cell: str, colour: str) -> None:
    assert tables.style(cell) == colour


def test_lines_that_became_too_wide_are_drawn_over_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("COLUMNS", "30")
    stream = io.StringIO()
    live = screen.Live(stream)

    live.show(["x" * 30, "\x1b[31my\x1b[0m"])
    monkeypatch.setenv("COLUMNS", "10")
    live.end()

    assert stream.getvalue().endswith("\x1b[4F\x1b[J")


def test_lines_are_drawn_over_until_they_are_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "3")
    stream = io.StringIO()
    live = screen.Live(stream)

    live.show(["a", "b", "hidden below the screen"])
    live.end(["c", "d", "e", "f"])
    live.end(["g"])

    assert stream.getvalue() == "a\nb\n\x1b[2F\x1b[Jc\nd\ne\nf\ng\n"
