"""A notice: a title and one sentence for people, and the same as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from anvyl_mcp.core import text

Level = Literal["problem", "recovered", "info"]
MOST_LINES = 12
"""Lines of a digest; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What is sent to a channel. `key`: the thing it is about; `about`: those of a digest; `at`: Unix time."""

    title: str
    body: str
    level: Level
    at: float
    key: tuple[str, ...] = ()
    urgent: bool = False
    document: Mapping[str, Any] = field(default_factory=dict)
    about: tuple[tuple[str, ...], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document for programs; `text` is the field that most webhooks show."""
        return dict(self.document) or {
            "event": self.level,
            "title": self.title,
            "message": self.body,
            "at": text.format_timestamp(self.at),
            "text": f"{self.title}: {self.body}",
        }


def with_note(notice: Notice, note: str) -> Notice:
    """Return the notice with another sentence."""
    return replace(notice, body=f"{notice.body} {note}")


def digest(notices: Sequence[Notice], why: str, at: float) -> Notice:
    """Combine notices that were held back: problems first, then what is over."""
    problems = [one for one in notices if one.level == "problem"]
    others = [one for one in notices if one.level != "problem"]
    counts = [text.plural(len(problems), "problem")] if problems else []
    counts += [f"{len(others)} over"] if others else []
    lines = [f"- {one.body}" for one in [*problems, *others]]
    more = [f"- and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
    level: Level = "problem" if problems else "recovered"
    about = tuple(one.key for one in problems)
    return Notice(f"{why}: {', '.join(counts)}", "\n".join([*lines[:MOST_LINES], *more]), level, at, about=about)
