"""Images, networks and volumes by name: a miss names what is near, and their labels are heeded like a container's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from docker.errors import ImageNotFound
from pydantic import Field

from anvyl_mcp.core.errors import AnvylError, NotFound, did_you_mean
from anvyl_mcp.server.engine import compat, timestamps
from anvyl_mcp.server.engine.engine import SLOW, Engine, check_held, which_one
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.policy.guardrails import check_labels
from anvyl_mcp.server.tool import CALLED

Raw = dict[str, Any]


def _existing(kind: str) -> Any:
    return Field(min_length=1, json_schema_extra={"x-names": kind})


ImageName = Annotated[str, _existing("image")]
NetworkName = Annotated[str, _existing("network")]
VolumeName = Annotated[str, _existing("volume")]
"""Objects that must exist; `x-names` lets a caller find the host where they live."""


def image(engine: Engine, name: str) -> Raw:
    """An image by tag, id or digest."""

    def missing() -> AnvylError:
        known = images(engine)
        ids = [(next(tags_of(entry), "untagged"), str(entry["Id"])) for entry in known]
        # Docker knows no image by an ambiguous id, and does not say why.
        if sum(number.removeprefix("sha256:").startswith(name.removeprefix("sha256:")) for _, number in ids) > 1:
            return which_one("image", name.removeprefix("sha256:"), ids)
        return _no("image", name, [tag for entry in known for tag in tags_of(entry)])

    with engine_errors(missing=missing):
        try:
            found = engine.client().inspect_image(name)  # type: ignore[no-untyped-call]  # the stubs leave it out
        except ImageNotFound as error:
            raise missing() from error
    return _checked("image", compat.image(found), name, name)


def network(engine: Engine, name: str) -> Raw:
    """A network by name or id."""
    with engine_errors(
        missing=lambda: _no("network", name, [one["Name"] for one in networks(engine)]),
        several=lambda: which_one("network", name, [(one["Name"], str(one.get("Id"))) for one in networks(engine)]),
    ):
        found = compat.identified(compat.named(engine.client().inspect_network(name)))
    return _checked("network", found, name, str(found["Name"]))


def volume(engine: Engine, name: str) -> Raw:
    """A volume by name."""
    if (found := engine.volume(name)) is None:
        raise _no("volume", name, [one["Name"] for one in volumes(engine)])
    return _checked("volume", found, name, name)


def identity(kind: str, found: Mapping[str, Any]) -> str:
    """What tells an object from another one of the same name. A volume has no id: it begins as a listing shows it."""
    if kind != "volume":
        return str(found["Id"])
    labels = sorted(compat.labels(found.get("Labels")).items())
    return f"{found['Name']}@{made_at(found)} {found.get('Driver')} {found.get('Mountpoint')} {labels}"


def made_at(volume: Mapping[str, Any]) -> str:
    """When a volume was made, as a listing shows it: plans hold on to that."""
    return timestamps.written(volume.get("CreatedAt"))


def images(engine: Engine, **filters: bool) -> list[Raw]:
    """`GET /images/json`."""
    return engine.images(**filters)


def networks(engine: Engine) -> list[Raw]:
    """`GET /networks`."""
    with engine_errors():
        return compat.each(engine.client().networks(), compat.named)


def volumes(engine: Engine, **filters: bool) -> list[Raw]:
    """`GET /volumes`; it may have to look at every disk."""
    with engine_errors():
        answer = compat.fields(engine.client(SLOW).volumes(filters=filters or None))
        return compat.each(answer.get("Volumes"), compat.named)


def tags_of(entry: Mapping[str, Any]) -> Iterator[str]:
    """The tags of an image; without the engine's word for none."""
    return (tag for tag in entry.get("RepoTags") or () if tag != "<none>:<none>")


def _no(kind: str, name: str, known: list[str]) -> NotFound:
    return NotFound(
        f"there is no {kind} `{object_names.shown(name)}` on this host",
        hint=did_you_mean(name, known) or f"there are no {kind}s here",
    )


def _checked(kind: str, found: Raw, asked: str, name: str) -> Raw:
    check_held(kind, asked, identity(kind, found))
    if tool := CALLED.get():
        check_labels(tool, {"Name": name, "Labels": found.get("Labels") or (found.get("Config") or {}).get("Labels")})
    return found
