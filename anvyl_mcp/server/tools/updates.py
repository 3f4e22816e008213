"""Newer images for containers, and updates to them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import ConfigInvalid, Conflict, InvalidInput
from anvyl_mcp.server.auth.callers import CURRENT_CALLER
from anvyl_mcp.server.containers import root_equivalence
from anvyl_mcp.server.containers.attachment_rights import check_volumes
from anvyl_mcp.server.containers.undo_log import UndoLog
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.registries.image_check import ImageChecker
from anvyl_mcp.server.stacks.deployment import pinned_image
from anvyl_mcp.server.stacks.projects import find_project
from anvyl_mcp.server.stacks.version_store import VersionStore
from anvyl_mcp.server.tool import ContainerName, tool
from anvyl_mcp.server.tools import containers
from anvyl_mcp.server.tools.stacks import StackName
from anvyl_mcp.server.updates.available import SERVICE_LABEL, STACK_LABEL, Updates, candidate, list_available
from anvyl_mcp.server.updates.execution import Updated
from anvyl_mcp.server.updates.replacement import name_of
from anvyl_mcp.server.updates.update import Updater, Wish

UPDATE_SECONDS = 1800
MinAge = Annotated[str, Field(description="least age of the new image; 0: any")]
WatchSeconds = Annotated[int, Field(description="seconds to watch it", ge=0, le=900)]


@tool(
    say=[
        "list updates",
        "what can be updated",
        "check for updates",
        "is there a newer image for {name}",
        "are my images up to date",
        "are my containers up to date",
        "which containers are outdated",
        "which images are outdated",
    ],
    about=(
        "update, upgrade, outdated, out of date, up to date, newer, new version, latest version, newest, "
        "available, release notes, behind"
    ),
    seconds=60,
)
def list_updates(
    engine: Engine,
    checker: ImageChecker,
    updater: Updater,
    name: Annotated[str, Field(description="one container or stack")] = "",
    refresh: Annotated[bool, Field(description="ask registries again")] = False,
) -> Updates:
    """List containers whose image has a newer one in its registry."""
    records = updater.records
    running = [part.name for one in records.active() for part in one.parts if part.image or part.source]
    return list_available(engine, checker, name, records.failures(), running, refresh=refresh)


@tool(say=["update {name}", "upgrade {name}"], changes=True, seconds=UPDATE_SECONDS)
def update_container(
    name: ContainerName,
    engine: Engine,
    progress: Progress,
    undo_log: UndoLog,
    updater: Updater,
    image: Annotated[
        str, Field(description="another image; empty: the newest of its tag", json_schema_extra={"x-uses": "image"})
    ] = "",
    min_age: MinAge = "3d",
    watch: WatchSeconds = 120,
) -> Updated:
    """Update a container to the newest image; the old one comes back if it fails."""
    container = engine.container(name)
    wish = _wish(engine, container, image)
    if not wish.same_tag:
        _check_other_image(engine, undo_log, container, image)
    return updater.update(
        engine, name_of(container), [wish], min_age=_parse_age(min_age), seconds=watch, progress=progress
    )


@tool(say=["update stack {name}", "upgrade stack {name}"], changes=True, seconds=UPDATE_SECONDS, rare=True)
def update_stack(
    name: StackName,
    engine: Engine,
    progress: Progress,
    updater: Updater,
    store: VersionStore,
    min_age: MinAge = "3d",
    watch: WatchSeconds = 120,
) -> Updated:
    """Update all containers of a stack together."""
    found = [engine.container(one.id) for one in find_project(engine, name).containers if not one.one_off]
    wishes = [_wish(engine, one, "") for one in found if not _why_not(engine, one)]
    if not wishes:
        raise Conflict(f"no container of `{name}` can be updated: {_why_not(engine, found[0]) if found else 'none'}")
    done = updater.update(engine, name, wishes, min_age=_parse_age(min_age), seconds=watch, progress=progress)
    if done.updated:
        _record_version(engine, store, name)
    return done


def _record_version(engine: Engine, store: VersionStore, name: str) -> None:
    """Store the new images as a version of a stack that was deployed through Anvyl, so that it can be reverted."""
    with suppress(ConfigInvalid):
        if current := store.current(name):
            services = find_project(engine, name).services
            images = {service: pinned_image(engine, one[0].image, one[0].image_id) for service, one in services.items()}
            who = CURRENT_CALLER.get().name
            version = store.begin(name, replace(current, who=who, note="updated to newer images"))
            store.finish(name, version.number, "deployed", {**current.images, **images})


def _wish(engine: Engine, container: Mapping[str, Any], image: str) -> Wish:
    """What a container is to be updated to.

    Raises:
        Conflict: it cannot be updated.
    """
    name, labels = name_of(container), container["Config"]["Labels"]
    if service := labels.get(SERVICE_LABEL):
        raise Conflict(f"`{name}` belongs to the Swarm service `{text.clean(service)}`", hint="update the service")
    if container["State"]["Status"] == "paused":
        raise Conflict(f"`{name}` is paused", hint="unpause or stop it first")
    found = candidate(engine, name, labels.get(STACK_LABEL, ""), container, {})
    if not image and found.why_not and not _is_rebuilt(engine, found.image, container):
        raise Conflict(
            f"`{name}` stays as it is: {found.why_not}", hint=f"another image: anvyl update {name} --image …"
        )
    return Wish(found, container, image or found.image)


def _why_not(engine: Engine, container: Mapping[str, Any]) -> str:
    """Why a container of a stack stays as it is; empty if it can be updated."""
    found = candidate(engine, name_of(container), "", container, {})
    return "" if _is_rebuilt(engine, found.image, container) else found.why_not


def _is_rebuilt(engine: Engine, image: str, container: Mapping[str, Any]) -> bool:
    """Whether its image was built here again since it was created."""
    local = engine.image_id(image)
    return bool(local) and local != container.get("Image") and not image.startswith("sha256:")


def _check_other_image(engine: Engine, undo_log: UndoLog, container: Mapping[str, Any], image: str) -> None:
    """Return if the caller may run this image with the rights of the container.

    Raises:
        Denied: a right is missing, or the policy forbids it.
    """
    name = name_of(container)
    if why := root_equivalence.root_reasons(engine, container, name):
        CURRENT_CALLER.get().require("exec", f"another image for `{name}`, which {'; '.join(why)},")
    arguments = {**root_equivalence.create_arguments(engine, container, name), "image": image}
    undo_log.permit(containers.create_container, arguments)
    check_volumes(engine, [str(one["Name"]) for one in container["Mounts"] if one.get("Type") == "volume"])


def _parse_age(given: str) -> float:
    seconds = text.parse_duration(given)
    if seconds is None:
        raise InvalidInput(f"`{given}` is not a duration", hint="write it like 3d or 12h; 0 for any age")
    return float(seconds)
