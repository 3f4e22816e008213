"""Compact text form of a long list of containers: what they have in common becomes a heading.

A single row costs a model about 21 tokens, a grouped one 9 to 14, which adds up in a list of a hundred.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from anvyl_mcp.server.containers.views import Container

GROUPED_FROM = 20
"""Below this number of rows a plain table is easier to read."""
SHARED_BY = 3
"""Containers with the same state and image that get a heading of their own."""
MOST_PORTS = 6
AGE = re.compile(r"(less than a|about an?|\d+) (second|minute|hour|day|week|month|year)s?", re.IGNORECASE)
UNITS = {"minute": "m", "hour": "h", "day": "d", "week": "w", "month": " months", "year": "y"}
PLAIN_PORT = re.compile(r"(\d+)->(\d+)(/\w+)?")


def group_lines(rows: Sequence[Container]) -> Iterator[str]:
    """Headings that end in a colon, each followed by `name image ports` of its containers."""
    states = [short_status(row) for row in rows]
    kinds = Counter((state, row.image) for state, row in zip(states, rows, strict=True))
    groups: dict[str, list[str]] = {}
    for state, row in zip(states, rows, strict=True):
        image, alike = short_image(row.image), kinds[state, row.image] >= SHARED_BY
        heading = f"{state}, image {image}:" if alike else f"{state}:"
        cells = [row.name, "" if alike else image, short_ports(row.ports)]
        groups.setdefault(heading, []).append(" ".join(filter(None, cells)))
    for heading, lines in groups.items():
        yield heading
        yield from lines


def short_status(row: Container) -> str:
    """`up 2h, unhealthy`, `exited (137) 3d ago`; an unknown status is returned as the engine wrote it."""
    words = AGE.sub(lambda age: _short_age(age[1].lower(), age[2].lower()), row.status) or row.state
    if row.health:
        words = f"{words.rpartition('(')[0].strip()}, {row.health}"
    return words[:1].lower() + words[1:]


def _short_age(count: str, unit: str) -> str:
    """A rounded age: exact seconds and minutes would put every container into a group of its own."""
    if unit == "second":
        return "<1m"
    number = int(count) if count.isdecimal() else 1
    return f"{number - number % 10 if unit == 'minute' and number > 10 else number}{UNITS[unit]}"


def short_image(image: str) -> str:
    """`server:2` for `ghcr.io/some/server:2@sha256:…`; `:latest` is omitted."""
    if image.startswith("sha256:"):
        return image[:19]
    return image.partition("@")[0].rsplit("/", 1)[-1].removesuffix(":latest")


@dataclass
class _PortRange:
    """A range of published ports whose container ports are consecutive too."""

    outer: int
    inner: int
    protocol: str
    count: int = 1

    def is_followed_by(self, outer: int, inner: int, protocol: str) -> bool:
        return (outer, inner, protocol) == (self.outer + self.count, self.inner + self.count, self.protocol)

    def __str__(self) -> str:
        if self.count == 1:
            return f"{self.outer}->{self.inner}{self.protocol}"
        last = self.count - 1
        return f"{self.outer}-{self.outer + last}->{self.inner}-{self.inner + last}{self.protocol}"


def short_ports(ports: Iterable[str]) -> str:
    """Published ports, consecutive ones as a range; unpublished ports are omitted."""
    published = [port for port in ports if "->" in port]
    plain = [(int(found[1]), int(found[2]), found[3] or "") for found in map(PLAIN_PORT.fullmatch, published) if found]
    spans: list[_PortRange] = []
    for outer, inner, protocol in sorted(plain, key=lambda one: (one[2], one)):
        if spans and spans[-1].is_followed_by(outer, inner, protocol):
            spans[-1].count += 1
        else:
            spans.append(_PortRange(outer, inner, protocol))
    words = [*map(str, spans), *(port for port in published if not PLAIN_PORT.fullmatch(port))]
    return ",".join([*words[:MOST_PORTS], *([f"+{len(words) - MOST_PORTS}"] if len(words) > MOST_PORTS else [])])
