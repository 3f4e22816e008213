"""Look up images, networks and volumes; a miss suggests similar names, and labels are checked as for containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from docker.errors import ImageNotFound
from pydantic import Field

from anvyl_mcp.core.errors import AnvylError, NotFound, did_you_mean
from anvyl_mcp.server.engine import compat, timestamps
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine, ambiguous_id, check_unchanged
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.policy.guardrails import check_labels
from anvyl_mcp.server.tool import CURRENT_TOOL


def _existing_object(kind: str) -> Any:
    return Field(min_length=1, json_schema_extra={"x-names": kind})


ImageName = Annotated[str, _existing_object("image")]
NetworkName = Annotated[str, _existing_object("network")]
VolumeName = Annotated[str, _existing_object("volume")]
"""Objects that must exist; `x-names` lets a caller find the host that has them."""


def find_image(engine: Engine, name: str) -> dict[str, Any]:
    """An image by tag, id or digest."""

    def missing() -> AnvylError:
        known = list_images(engine)
        ids = [(next(image_tags(entry), "untagged"), str(entry["Id"])) for entry in known]
        # Docker answers 404 for an ambiguous id too, without a reason.
        if sum(number.removeprefix("sha256:").startswith(name.removeprefix("sha256:")) for _, number in ids) > 1:
            return ambiguous_id("image", name.removeprefix("sha256:"), ids)
        return _not_found("image", name, [tag for entry in known for tag in image_tags(entry)])

    with engine_errors(missing=missing):
        try:
            found = engine.client().inspect_image(name)  # type: ignore[no-untyped-call]  # the stubs leave it out
        except ImageNotFound as error:
            raise missing() from error
    return _check_access("image", compat.image(found), name, name)


def find_network(engine: Engine, name: str) -> dict[str, Any]:
    """A network by name or id."""
    with engine_errors(
        missing=lambda: _not_found("network", name, [one["Name"] for one in list_networks(engine)]),
        several=lambda: ambiguous_id(
            "network", name, [(one["Name"], str(one.get("Id"))) for one in list_networks(engine)]
        ),
    ):
        found = compat.require_id(compat.network_or_volume(engine.client().inspect_network(name)))
    return _check_access("network", found, name, str(found["Name"]))


def find_volume(engine: Engine, name: str) -> dict[str, Any]:
    """A volume by name."""
    if (found := engine.volume(name)) is None:
        raise _not_found("volume", name, [one["Name"] for one in list_volumes(engine)])
    return _check_access("volume", found, name, name)


def identity(kind: str, found: Mapping[str, Any]) -> str:
    """Distinguishes an object from a later one of the same name: its id, or for a volume its properties.

    A stack is its name: a deployment replaces its containers, and a second one must find it locked.
    """
    if kind == "stack":
        return str(found["Name"])
    if kind != "volume":
        return str(found.get("Id") or found["ID"])
    labels = sorted(compat.labels(found.get("Labels")).items())
    return f"{found['Name']}@{created_at(found)} {found.get('Driver')} {found.get('Mountpoint')} {labels}"


def created_at(find_volume: Mapping[str, Any]) -> str:
    """Creation time of a volume in the format of listings, which plans compare it with."""
    return timestamps.to_iso(find_volume.get("CreatedAt"))


def list_images(engine: Engine, **filters: bool) -> list[dict[str, Any]]:
    """`GET /images/json`."""
    return engine.images(**filters)


def list_networks(engine: Engine) -> list[dict[str, Any]]:
    """`GET /networks`."""
    with engine_errors():
        return compat.parse_list(engine.client().networks(), compat.network_or_volume)


def list_volumes(engine: Engine, **filters: bool) -> list[dict[str, Any]]:
    """`GET /volumes`; slow, as the engine may have to read every disk."""
    with engine_errors():
        answer = compat.require_object(engine.client(CHANGE_TIMEOUT).volumes(filters=filters or None))
        return compat.parse_list(answer.get("Volumes"), compat.network_or_volume)


def image_tags(entry: Mapping[str, Any]) -> Iterator[str]:
    """The tags of an image, without the engine's placeholder for none."""
    return (tag for tag in entry.get("RepoTags") or () if tag != "<none>:<none>")


def _not_found(kind: str, name: str, known: list[str]) -> NotFound:
    return NotFound(
        f"there is no {kind} `{object_names.shorten(name)}` on this host",
        hint=did_you_mean(name, known) or f"there are no {kind}s here",
    )


def _check_access(kind: str, found: dict[str, Any], requested: str, name: str) -> dict[str, Any]:
    check_unchanged(kind, requested, identity(kind, found))
    if tool := CURRENT_TOOL.get():
        check_labels(tool, {"Name": name, "Labels": found.get("Labels") or (found.get("Config") or {}).get("Labels")})
    return found
