"""Tables and other drawing, without a terminal."""

from __future__ import annotations

import io

import pytest

from anvyl_mcp.cli import screen, tables

ROWS = [
    ["nas", "web", "Up 2 hours", "registry.example.com/team/web:1.27"],
    ["gpu", "数据库", "Exited (0)", "postgres:17"],
]


def test_columns_are_aligned_also_under_wide_letters() -> None:
    head, first, second = tables.lines(["host", "name", "status", "image"], ROWS)

    assert head == "HOST  NAME    STATUS      IMAGE"
    assert first == "nas   web     Up 2 hours  registry.example.com/team/web:1.27"
    assert second == "gpu   数据库  Exited (0)  postgres:17"


@pytest.mark.parametrize("columns", [36, 45, 55])
def test_a_table_is_no_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))

    drawn = tables.lines(["host", "name", "status", "image"], ROWS)

    assert max(map(screen.width, drawn)) <= columns
    assert drawn[1].endswith("1.27") and "…" in drawn[1]


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
        ("Exited (0) 2 days ago", "dim"),
        ("█████  95 % of 2 GiB", "red"),
        ("████░  80 %", "yellow"),
        ("web", ""),
    ],
)
def test_a_state_has_a_colour(cell: str, colour: str) -> None:
    assert tables.style(cell) == colour


def test_lines_are_drawn_over_until_they_are_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "3")
    stream = io.StringIO()
    live = screen.Live(stream)

    live.show(["a", "b", "hidden below the screen"])
    live.end(["c", "d", "e", "f"])
    live.end(["g"])

    assert stream.getvalue() == "a\nb\n\x1b[2F\x1b[Jc\nd\ne\nf\ng\n"
