"""Raw events of the engine become episodes that a person would tell."""

from __future__ import annotations

import pytest

from anvyl_mcp.server.history.episodes import Episode, RecordedEvent, episodes
from anvyl_mcp.server.history.store import MICROSECOND

Summary = tuple[str, str, int | None, int, int]
"""What, who, exit code, how often, and how often Docker started it again."""


def events(*rows: tuple[float, str, object]) -> list[RecordedEvent]:
    """Events of one container at seconds: an action with an exit code, a signal, a detail or a caller."""
    found = []
    for number, (second, action, extra) in enumerate(rows):
        code = extra if isinstance(extra, int) else None
        who = extra.removeprefix("by ") if isinstance(extra, str) and extra.startswith("by ") else ""
        detail = extra if isinstance(extra, str) and not who else ""
        at = int((1_000_000 + second) * MICROSECOND)
        operation = f"op-{who}" if who else ""
        found.append(
            RecordedEvent(
                number,
                at,
                1,
                "container",
                "c" * 64,
                "web",
                "nginx",
                action,
                code,
                detail,
                who,
                "stop_container" if who else "",
                operation,
            )
        )
    return found


def summaries(found: list[Episode]) -> list[Summary]:
    return [(one.what, one.who, one.code, one.times, one.restarts) for one in found]


CASES: dict[str, tuple[list[tuple[float, str, object]], list[Summary]]] = {
    "stopped with docker": (
        [(0, "kill", 15), (1, "die", 0), (1.1, "stop", None)],
        [("stopped", "outside Anvyl", 0, 1, 0)],
    ),
    "stopped by a caller": (
        [(0, "kill", "by ann"), (1, "die", 143), (1.1, "stop", "by ann")],
        [("stopped", "ann", 143, 1, 0)],
    ),
    "restarted by a caller": (
        [
            (0, "kill", "by ann"),
            (1, "die", 0),
            (1, "stop", "by ann"),
            (2, "start", "by ann"),
            (2.1, "restart", "by ann"),
        ],
        [("restarted", "ann", 0, 1, 0)],
    ),
    "killed": ([(0, "kill", 9), (0.1, "die", 137)], [("killed", "outside Anvyl", 137, 1, 0)]),
    "removed by force": (
        [(0, "kill", 9), (0.1, "die", 137), (0.2, "destroy", None)],
        [("killed and removed", "outside Anvyl", 137, 1, 0)],
    ),
    "created and started": (
        [(0, "create", None), (1, "start", None)],
        [("created and started", "outside Anvyl", None, 1, 0)],
    ),
    "ended by itself": ([(0, "die", 0)], [("ended", "", 0, 1, 0)]),
    "a crash loop is one entry": (
        [(0, "die", 1), (1, "start", None), (2, "die", 1), (4, "start", None), (5, "die", 1)],
        [("crashed", "", 1, 3, 2)],
    ),
    "another exit code is another entry": (
        [(0, "die", 1), (1, "start", None), (2, "die", 2)],
        [("crashed", "", 2, 1, 0), ("crashed", "", 1, 1, 1)],
    ),
    "out of memory": ([(0, "oom", None), (0.5, "die", 137)], [("was killed: out of memory", "", 137, 1, 0)]),
    "a reload is not a kill": ([(0, "kill", 1), (30, "die", 1)], [("crashed", "", 1, 1, 0)]),
    "a late start was somebody": (
        [(0, "die", 1), (3600, "start", None)],
        [("started", "outside Anvyl", None, 1, 0), ("crashed", "", 1, 1, 0)],
    ),
    "a start by a caller after a crash": (
        [(0, "die", 1), (20, "start", "by ann")],
        [("started", "ann", None, 1, 0), ("crashed", "", 1, 1, 0)],
    ),
    "health": (
        [(0, "health_status", "healthy"), (9, "health_status", "unhealthy"), (20, "health_status", "healthy")],
        [("became healthy again", "", None, 1, 0), ("became unhealthy", "", None, 1, 0)],
    ),
    "stopped by a caller with Podman": ([(0, "die", "by ann")], [("stopped", "ann", None, 1, 0)]),
    "stopped outside with Podman": ([(0, "die", 137)], [("ended by a signal", "", 137, 1, 0)]),
    "restarted with Podman, which reports it first": (
        [(0, "restart", None), (1, "die", 137), (2, "start", None)],
        [("restarted", "outside Anvyl", 137, 1, 0)],
    ),
    "renamed": ([(0, "rename", "was old")], [("renamed", "outside Anvyl", None, 1, 0)]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_events_become_one_entry_for_what_happened(case: str) -> None:
    rows, expected = CASES[case]

    assert summaries(episodes(events(*rows))) == expected


def test_objects_do_not_mix_and_the_newest_comes_first() -> None:
    mine = events((0, "die", 1), (50, "start", None))
    other = [
        RecordedEvent(9, (1_000_000 + 10) * MICROSECOND, 2, "image", "sha256:1", "nginx:1", "", "pull"),
        RecordedEvent(10, (1_000_000 + 70) * MICROSECOND, 3, "container", "d" * 64, "db", "", "die", 0),
    ]

    assert [(one.name, one.what) for one in episodes([*mine, *other])] == [
        ("db", "ended"),
        ("web", "crashed"),
        ("nginx:1", "image pulled"),
    ]
