"""Tables and live displays, without a real terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.cells import cell_len
from rich.console import Console

from anvyl_mcp.cli.terminal import live, screen, tables
from anvyl_mcp.core import text
from anvyl_mcp.core.text import ANSI

ROWS = [
    ["nas", "web", "Up 2 hours", "registry.example.com/team/web:1.27"],
    ["gpu", "数据库", "Exited (0) 3 hours ago", "postgres:17"],
]


def drawn(columns: Sequence[str], rows: Sequence[Sequence[str]], room: int = 80) -> list[str]:
    """Render a table for a terminal width, check that no line exceeds it, and return the lines."""
    terminal = Console(file=io.StringIO(), width=200)
    with terminal.capture() as shown:
        terminal.print(tables.build_table(columns, rows, {}, room=room))
    lines = shown.get().splitlines()
    assert max(map(cell_len, lines)) <= room
    return [line.rstrip() for line in lines]


def test_columns_are_aligned_with_wide_characters() -> None:
    head, first, second = drawn(["host", "name", "status", "image"], ROWS)

    assert head == "HOST  NAME    STATUS           IMAGE"
    assert first == "nas   web     up 2 h           registry.example.com/team/web:1.27"
    assert second == "gpu   数据库  exited (0), 3 h  postgres:17"


@pytest.mark.parametrize("columns", [41, 45, 55])
def test_a_table_fits_into_the_terminal(columns: int) -> None:
    _, first, _ = drawn(["host", "name", "status", "image"], ROWS, columns)

    assert first.endswith("1.27") and "…" in first


FLEET = [
    ["nas", "immich_server", "Up 21 minutes (unhealthy)", "ghcr.io/immich-app/immich-server:v1.111.0", "2283->80"],
    ["nas", "jellyfin", "Up About an hour (healthy)", "jellyfin/jellyfin:10.9.7", "127.0.0.1:8096->8096, 8920"],
    ["workshop", "nextcloud-app-1", "Restarting (1) 5 seconds ago", "nextcloud:29", ""],
    ["workshop", "nextcloud-db-1", "Up 3 days (Paused)", "postgres:16", "5432"],
]
USE = ["host", "name", "cpu_percent", "memory_used", "memory_limit", "net_rx", "net_tx", "pids"]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_state_is_readable_at_every_width_and_without_colour(columns: int) -> None:
    head, *rows = drawn(["host", "name", "status", "image", "ports"], FLEET, columns)

    for (host, name, *_), line in zip(FLEET, rows, strict=True):
        assert line.split()[:2] == [host, name]
    assert [line[head.index("STATUS") :].split("  ")[0] for line in rows] == [
        "unhealthy, 21 min",
        "healthy, 1 h",
        "restarting (1), 5 s",
        "paused, 3 days",
    ]


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_number_is_never_truncated(columns: int) -> None:
    figures = ["0 %", "888 KiB", "23.5 GiB", "1.27 KiB", "0 B", "2"]

    _, row = drawn(USE, [["workshop", "nextcloud-app-1", *figures]], columns)

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
def test_a_shortened_status_starts_with_the_state(status: str, short: str) -> None:
    assert text.shorten_status(status) == short


def test_lines_wrap_between_words_and_names_are_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    url = "https://registry.example.com/a/very/long/path"

    lines = screen.wrap(f"error: no host has nextcloud-app-1 数据库数据库 at {url} now", stream, 7).split("\n")

    later = ["nextcloud-app-1", "数据库数据库 at", url, "now"]
    assert lines == ["error: no host has", *(f"       {words}" for words in later)]
    assert screen.wrap("a " * 40, io.StringIO()) == "a " * 40


def test_numbers_are_right_aligned() -> None:
    assert drawn(["name", "cpu_percent"], [["web", "5 %"], ["db", "100 %"], ["new", ""]]) == [
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
def test_long_text_is_truncated(words: str, room: int, cut: str) -> None:
    assert tables.truncate(words, room) == cut
    assert cell_len(tables.truncate(words, room)) <= room


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
    assert tables.cell_style(cell) == colour


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A fake terminal with 30 columns and 3 lines."""
    for name, value in {"TERM": "xterm", "COLUMNS": "30", "LINES": "3", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    return stream


def climbed(written: str) -> int:
    """Return how many rows the output moves the cursor up."""
    return written.count("\x1b[1A") - written.count("\n")


def test_lines_wrapped_by_a_narrower_terminal_are_erased(terminal: io.StringIO) -> None:
    drawing = live.LiveDisplay(terminal)

    drawing.show(["x" * 30, "y"])
    begun = len(terminal.getvalue())
    drawing.console.width = 10
    drawing.end()

    assert climbed(terminal.getvalue()[begun:]) == 3


def test_live_lines_are_replaced_until_the_final_table(terminal: io.StringIO) -> None:
    drawing = live.LiveDisplay(terminal)

    drawing.show(["a", "b", "c", "hidden below the screen"])
    begun = len(terminal.getvalue())
    assert terminal.getvalue().rpartition("\x1b[?25")[2].startswith("h")
    drawing.end(screen.TableData(["d"], [["e"], ["f"], ["g"]], {}))
    drawing.end(screen.TableData(["h"], [["i"]], {}))

    shown, final = terminal.getvalue()[:begun], terminal.getvalue()[begun:]
    assert "hidden" not in shown
    assert climbed(final.partition("D")[0]) == 2
    assert ANSI.sub("", final) == "\rD\ne\nf\ng\nH\ni\n"


def test_a_size_of_zero_is_an_unknown_size(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")

    assert screen.console(terminal).width > 0


def test_text_of_hosts_is_neither_markup_nor_control_codes(terminal: io.StringIO) -> None:
    drawing = live.LiveDisplay(terminal)

    drawing.show(["[red]a[/]\x1b[2J :smile:"])
    drawing.end(screen.TableData(["name"], [["[bold]b[/]\x1b[2J"]], {}))

    assert "[red]a[/] :smile:" in terminal.getvalue() and "[bold]b[/]" in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()
