"""Numbers in a tool's results, found by its schema: their names and paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.vocabulary import meaning, meanings
from anvyl_mcp.peers.connection.listing import ToolListing

NO_NAMES = frozenset({"percent", "second", "used", "total", "limit"})
"""Parts of field names that are units."""

PARTS = frozenset({"mount", "sensor"})
"""Fields that name a part of a host, not an object on it."""
TOTAL = ("total",)
"""Path of the number of rows."""


@dataclass(frozen=True)
class Measure:
    """One number: its path in a result, or in each of the `rows` with the field `label` as name.

    With `room` the path leads to what is `used` of a `total`.
    """

    words: frozenset[str]
    path: tuple[str, ...]
    format: str = ""
    rows: str = ""
    label: str = ""
    room: bool = False

    @property
    def counts(self) -> bool:
        """Whether it is the number of rows, which says something only next to that of other hosts."""
        return self.path == TOTAL

    @property
    def noun(self) -> str:
        """Kind of the measured object, like `container`; `host` if it is not in a list."""
        return meaning(self.rows) if self.rows and self.label not in PARTS else "host"


@dataclass(frozen=True)
class Amount:
    """One measured number with its object and host.

    Of a total, `free` and `percent` are what the host reports: a file system keeps a reserve that is neither.
    """

    host: str
    label: str
    value: float
    total: float = 0
    format: str = ""
    free: float = 0
    percent: float = 0

    @property
    def place(self) -> str:
        """`web on nas`, or the host alone."""
        return f"{self.label} on {self.host}" if self.label else self.host

    def shown(self, value: float) -> str:
        """Format a number of this kind."""
        show = text.FORMATTERS.get(self.format)
        return show(value) if show else f"{value:g}"


def measures(listing: ToolListing) -> list[Measure]:
    """All numbers in the tool's results, and how many rows there are."""
    schema = text.resolve_schema(listing.output_schema)
    rows = [Measure(frozenset({meaning(field)}), TOTAL)] if (field := text.rows_field(schema)) else []
    return [*_in(schema.get("properties", {}), ()), *rows]


def _in(fields: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Measure]:
    for name, schema in fields.items():
        inner, items = schema.get("properties", {}), schema.get("items", {}).get("properties", {})
        words = frozenset(meanings(name.replace("_", " "))) - NO_NAMES
        if {"used", "total"} <= inner.keys():
            yield Measure(words, (*path, name), "bytes", room=True)
        elif {"used", "total"} <= items.keys():
            yield Measure(words, (), "bytes", rows=name, label=_label(items), room=True)
        elif inner:
            yield from _in(inner, (*path, name))
        elif items and not path:
            label = _label(items)
            for field, kind in items.items():
                if _is_number(kind) and not field.endswith("_limit"):
                    yield Measure(
                        frozenset(meanings(field.replace("_", " "))) - NO_NAMES,
                        (field,),
                        kind.get("format", ""),
                        name,
                        label,
                    )
        elif _is_number(schema):
            yield Measure(words, (*path, name), schema.get("format", ""))


def _is_number(schema: Mapping[str, Any]) -> bool:
    """Whether the schema is a number, optional or not."""
    kinds = schema.get("type")
    return bool({"integer", "number"} & set(kinds if isinstance(kinds, list) else [kinds]))


def _label(fields: Mapping[str, Any]) -> str:
    """Field with the name of a row."""
    named = [name for name in ("name", "tags", "mount", "kind", "sensor") if name in fields]
    return named[0] if named else next(iter(fields))


def amounts(measure: Measure, host: str, result: Mapping[str, Any]) -> Iterator[Amount]:
    """Amounts in one result."""
    rows = result.get(measure.rows, []) if measure.rows else [result]
    for row in rows if isinstance(rows, list) else ():
        found: Any = row
        for name in measure.path:
            found = found.get(name) if isinstance(found, Mapping) else None
        label = row.get(measure.label, "") if measure.label and isinstance(row, Mapping) else ""
        label = ", ".join(map(str, label)) if isinstance(label, list) else str(label)
        if measure.label and not label and isinstance(row, Mapping):
            label = str(row.get("id") or "")
        if measure.room and isinstance(found, Mapping) and found.get("total"):
            yield _amount_of_total(host, label, found, measure.format)
        elif not measure.room and isinstance(found, int | float):
            yield Amount(host, label, float(found), format=measure.format)


def _amount_of_total(host: str, label: str, found: Mapping[str, Any], format: str) -> Amount:
    used, total = float(found["used"]), float(found["total"])
    return Amount(host, label, used, total, format, _free_of(found), float(found.get("percent", 100 * used / total)))


def _free_of(usage: Mapping[str, Any]) -> float:
    """Free bytes; a host with an older version reports only the total."""
    return float(usage.get("free", usage["total"] - usage["used"]))
