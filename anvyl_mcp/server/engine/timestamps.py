"""Parse the engine's timestamps, which may have any time zone and any number of fractional digits."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from anvyl_mcp.core import text

STAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d+))?\s*(?:[Zz]|([+-])(\d\d):?(\d\d)(?::?\d\d)?)?(?:\s.*)?",
    re.ASCII | re.DOTALL,
)
SECOND = 10**9
"""In nanoseconds, the resolution of the engine's timestamps."""


def to_nanoseconds(stamp: str) -> int | None:
    """Nanoseconds since 1970, or None if it is not a timestamp. Without a time zone it is UTC."""
    match = STAMP.fullmatch(stamp)
    if not match:
        return None
    day, clock, fraction, sign, hours, minutes = match.groups()
    try:
        # Raises ValueError for an offset of 24 hours or more, and for the year 0.
        away = timedelta(hours=int(hours or 0), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1)
        whole = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=timezone(away))
    except ValueError:
        return None
    passed = whole - datetime(1970, 1, 1, tzinfo=UTC)
    return (passed.days * 86400 + passed.seconds) * SECOND + int((fraction or "")[:9].ljust(9, "0"))


def to_iso(stamp: Any) -> str:
    """ISO 8601 UTC in whole seconds, from an engine's timestamp or seconds since 1970.

    Empty for anything else, and for times before 2000, such as Docker's `0001-01-01` for unset.
    """
    if isinstance(stamp, str):
        found = to_nanoseconds(stamp)
    else:
        found = int(stamp) * SECOND if isinstance(stamp, int | float) and abs(stamp) < text.LATEST_DATE else None
    return text.format_timestamp(found // SECOND) if found is not None and found // SECOND >= text.EARLIEST_DATE else ""
