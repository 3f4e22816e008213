"""Which containers of this host have newer images, as rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NotFound
from anvyl_mcp.server.containers.own_container import is_own
from anvyl_mcp.server.engine.engine import Engine, own_name
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.policy.guardrails import is_hidden, is_protected
from anvyl_mcp.server.registries.image_check import ImageChecker, LocalImage, NewerImage
from anvyl_mcp.server.registries.image_facts import ImageFacts, age_seconds, is_version, kind_of_change, short_digest
from anvyl_mcp.server.registries.references import ImageReference, parse_reference
from anvyl_mcp.server.tool import Result, Row, Strings, Time
from anvyl_mcp.server.updates.records import FailedUpdate

STACK_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.swarm.service.name"
MOST_NAMED = 30
MIN_AGE_SECONDS = 3 * 24 * 3600.0
"""Age that a new image should have: most bad and malicious ones are withdrawn by then."""
Held = Literal["", "age", "failed", "blocked"]


class AvailableUpdate(Row):
    """A container whose tag has a newer image. `current` and `available` are versions, or digests."""

    columns = ("name", "stack", "current", "available", "published", "change")

    name: str
    stack: str
    image: str
    current: str
    available: str
    published: Time
    change: str
    note: str = ""
    held: Held = ""
    """Why an update of everything leaves it out."""
    own: bool = False
    """Whether the server runs in it, so that it is updated last."""
    notes: str
    digest: str


class Updates(Result):
    """Newer images; then the containers without one, and those that could not be checked."""

    updates: list[AvailableUpdate]
    total: int
    more: int = 0
    current: Strings = Field(default=[])
    unchecked: Strings = Field(default=[])
    checked: Time = ""
    updating: Strings = Field(default=[])
    note: str = ""

    def text(self) -> str:
        """The rows, then a line for the rest."""
        when = text.format_age(self.checked) if self.checked else ""
        shown, left = self.current[:MOST_NAMED], len(self.current) - MOST_NAMED
        names = ", ".join([*shown, *([f"{left} more"] if left > 0 else [])])
        current = [f"up to date: {names}" + (f" (checked {when})" if when else "")] if names else []
        rows = [super().text()] if self.updates or not (current or self.unchecked or self.note) else []
        rows += [f"{one.name}: {one.note}" for one in self.updates if one.note]
        rows += [f"release notes of {one.name}: {one.notes}" for one in self.updates if one.notes]
        return "\n".join(
            [
                *rows,
                *([self.note] if self.note else []),
                *([f"being updated: {', '.join(self.updating)}"] if self.updating else []),
                *current,
                *(f"not checked: {one}" for one in self.unchecked),
            ]
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A container, its image here and the name under which it looks for newer ones; `why_not` if it does not."""

    name: str
    stack: str
    image: str
    reference: ImageReference | None
    local: LocalImage | None
    why_not: str
    own: bool = False
    block: str = ""
    """Why it cannot be changed now, if so."""


def find_candidates(engine: Engine, name: str = "") -> list[Candidate]:
    """The containers to check: all, one, those of a stack, or those with `name` in their names."""
    listed = [one for one in engine.containers(all=True) if not is_hidden(one)]
    named = [(own_name(one), one["Labels"].get(STACK_LABEL, ""), one) for one in listed]
    chosen = [one for one in named if not name or name in one[:2] or one[2]["Id"].startswith(name)]
    chosen = chosen or [one for one in named if name.lower() in one[0].lower()]
    images: dict[str, LocalImage | None] = {}
    found = []
    for own, stack, entry in chosen:
        try:
            inspected = engine.inspect(entry["Id"])
        except NotFound:
            continue
        found.append(candidate(engine, own, stack, inspected, images))
    return found


def candidate(
    engine: Engine, name: str, stack: str, inspected: Mapping[str, Any], images: dict[str, LocalImage | None]
) -> Candidate:
    """One inspected container; `images` caches what was inspected before."""
    image, identifier = str(inspected["Config"]["Image"]), str(inspected.get("Image") or "")
    reference = parse_reference(image)
    if identifier not in images:
        images[identifier] = LocalImage.read(engine, identifier)
    local = images[identifier]
    why_not = ""
    if service := inspected["Config"]["Labels"].get(SERVICE_LABEL):
        why_not = f"a task of the Swarm service {text.clean(service)}, which is updated as a whole"
    elif reference is None:
        why_not = "it was created from an image id, which never changes"
    elif reference.digest:
        why_not = "pinned to a digest"
    elif local is None:
        why_not = "its image is gone"
    elif not local.pulled:
        why_not = "its image was built or imported here, or has lost its tag"
    return Candidate(name, stack, image, reference, local, why_not, is_own(inspected), _block(inspected))


def list_available(
    engine: Engine,
    checker: ImageChecker,
    name: str,
    failures: Mapping[tuple[str, str], FailedUpdate],
    running: Sequence[str],
    *,
    refresh: bool,
) -> Updates:
    """Check containers for newer images. `failures`: updates that did not work; `running`: those under way."""
    candidates = find_candidates(engine, name)
    pairs = list({(one.reference, one.local.id): (one.reference, one.local) for one in candidates
                  if one.reference and one.local and not one.why_not}.values())  # fmt: skip
    found_of = {(image, local.id): found for (image, local), found
                in zip(pairs, checker.check(engine, pairs, refresh=refresh), strict=True)}  # fmt: skip
    updates, current, problems, oldest = [], [], dict[str, list[str]](), time.time()
    for one in candidates:
        if one.why_not or not one.reference or not one.local:
            problems.setdefault(one.why_not, []).append(one.name)
            continue
        found = found_of[one.reference, one.local.id]
        if found.answer.error:
            problems.setdefault(found.answer.error, []).append(one.name)
        if found.answer.digest:
            oldest = min(oldest, found.answer.at)
        if found.newer:
            updates.append(_row(one, found, found.newer, failures))
        elif not found.answer.error:
            current.append(one.name)
    updates.sort(key=lambda row: (row.stack, row.name))
    return Updates(
        updates=updates,
        total=len(updates),
        current=sorted(current),
        unchecked=[f"{', '.join(sorted(names))}: {why}" for why, names in sorted(problems.items())],
        checked=text.format_timestamp(oldest) if pairs else "",
        updating=sorted({*running} & {one.name for one in candidates}),
        note=f"there is no container or stack `{object_names.shorten(name)}` here" if name and not candidates else "",
    )


def _row(
    one: Candidate, found: NewerImage, newer: ImageFacts, failures: Mapping[tuple[str, str], FailedUpdate]
) -> AvailableUpdate:
    assert one.reference is not None and one.local is not None
    before, after = one.local.facts.version, newer.version
    change = kind_of_change(before, after) or ("rebuild" if is_version(one.reference.tag) else "")
    if not before or not after or before == after:
        before, after = short_digest(one.local.pulled), short_digest(found.answer.digest)
    held, note = _held(one, found, newer, failures)
    return AvailableUpdate(
        name=one.name,
        stack=one.stack,
        image=text.clean(one.image),
        current=before,
        available=after,
        published=newer.created or text.format_timestamp(found.answer.since),
        change=change,
        note=note,
        held=held,
        own=one.own,
        notes=newer.notes,
        digest=found.answer.digest,
    )


def _held(
    one: Candidate, found: NewerImage, newer: ImageFacts, failures: Mapping[tuple[str, str], FailedUpdate]
) -> tuple[Held, str]:
    """Why an update waits for a person, in one word and in several."""
    if one.block:
        return "blocked", one.block
    for digest in newer.digests:
        if failed := failures.get((one.name, digest)):
            return "failed", f"failed {text.format_age(text.format_timestamp(failed.at))}: {failed.why}"
    if published_age(found) < MIN_AGE_SECONDS:
        return "age", "less than 3 days old"
    return "", "this server runs in it: updated last" if one.own else ""


def _block(inspected: Mapping[str, Any]) -> str:
    """Why a container cannot be updated now; empty if it can."""
    if is_protected(inspected):
        return "protected by its label anvyl.protect"
    return "paused" if inspected["State"]["Status"] == "paused" else ""


def published_age(found: NewerImage) -> float:
    """Seconds since a newer image was made; if it does not say, since its digest was first seen here."""
    made = age_seconds(found.newer.created) if found.newer and found.newer.created else None
    return time.time() - found.answer.since if made is None else made
