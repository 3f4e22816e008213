"""Replaces containers with new ones of the same configuration, and goes back to the old ones if they fail.

A container whose name is `web` is replaced in this order, so that at every moment the old one can be started again:

1. `web.anvyl-new` is created; nothing has stopped yet.
2. `web` is stopped and becomes `web.anvyl-old`; `web.anvyl-new` becomes `web` and is started.
3. `web` is watched. If it does not come up, it is removed, and the old one gets its name back and is started.
4. `web.anvyl-old` is removed; its anonymous volumes are mounted in the new one.

A container with `--rm` removes itself in step 2, and is created again if it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from anvyl_mcp.core.errors import AnvylError, InvalidInput, NotFound
from anvyl_mcp.server.containers.recreate import Recreation
from anvyl_mcp.server.containers.undo_log import RUNNING_STATES, LoggedChange
from anvyl_mcp.server.engine import compat
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.updates.health_watch import UnhealthyError, check_up
from anvyl_mcp.server.updates.inherited_settings import COMPOSE_IMAGE, drop_inherited
from anvyl_mcp.server.updates.records import Part

NEW, OLD = f"{object_names.REPLACING}new", f"{object_names.REPLACING}old"
"""Endings of names while a container is replaced."""
JOINED_MODES = ("NetworkMode", "PidMode", "IpcMode")
STOP_SECONDS, LONGEST_STOP_SECONDS = 10, 120
DEPENDS_ON = "com.docker.compose.depends_on"
"""Label with the services that start before a container: `db:service_healthy:true,cache:…`."""
SERVICE = "com.docker.compose.service"


@dataclass(frozen=True)
class Replacement:
    """Containers that are replaced together: those with new images first, then those that depend on them."""

    engine: Engine
    parts: tuple[Part, ...]

    def create(self) -> Replacement:
        """Create the new containers, not started yet; on failure remove them again.

        Raises:
            AnvylError: the engine refused.
        """
        made: list[Part] = []
        try:
            for part in self.parts:
                made.append(replace(part, new_id=self._create(part, made)))
        except AnvylError:
            for part in made:
                with suppress(AnvylError):
                    self._remove(part.new_id)
            raise
        return Replacement(self.engine, tuple(made))

    def swap(self) -> None:
        """Stop the old containers and start the new ones under their names.

        Raises:
            AnvylError: the engine failed; `go_back` puts right what was done.
            UnhealthyError: a new container crashed at once.
        """
        for part in reversed(self.parts):
            self._stop(part)
        for part in self.parts:
            self._rename(part.old_id, f"{part.name}{OLD}")
            self._rename(part.new_id, part.name)
        started: dict[str, str] = {}
        for part in self.parts:
            if was_running(part.old):
                try:
                    self._start(part.new_id, part.name)
                except InvalidInput as error:
                    raise UnhealthyError(part.name, f"cannot start: {error.message}", []) from error
                except AnvylError:
                    # Those that depend on a container that crashed cannot be started: its crash is the reason.
                    check_up(self.engine, started)
                    raise
                started[part.new_id] = part.name

    def go_back(self, before_start: Callable[[], None] = lambda: None) -> None:
        """Remove the new containers and start the old ones again. May be repeated, and begun at any point.

        `before_start` is called once the new ones are gone.

        Raises:
            AnvylError: the engine failed.
        """
        for part in reversed(self.parts):
            self._remove(part.new_id or f"{part.name}{NEW}")
        before_start()
        again: list[Part] = []
        for part in self.parts:
            found = self._find(part.old_id)
            if found is None or any(_depends(part.old, other.old) for other in again):
                again.append(self._create_again(part, again))
                identifier = again[-1].new_id
            else:
                identifier = part.old_id
                self._rename(identifier, part.name)
            if was_running(part.old):
                self._start(identifier, part.name)

    def _create_again(self, part: Part, again: Sequence[Part]) -> Part:
        """Create an old container that removed itself, or that referred to one by its id."""
        self._remove(part.old_id, volumes=False)
        old = Part(part.name, part.old)
        if found := self._find(part.name):
            return replace(old, new_id=str(found["Id"]))
        created = recreation_of(part.old).build(self.engine, part.name, lambda body: self._adapt(body, old, again))
        return replace(old, new_id=created)

    def remove_old(self) -> None:
        """Remove the old containers, and keep their volumes. May be repeated.

        Raises:
            AnvylError: the engine failed.
        """
        for part in reversed(self.parts):
            self._remove(part.old_id, volumes=False)

    @property
    def started(self) -> dict[str, str]:
        """Names of the new containers that must come up, by id."""
        return {part.new_id: part.name for part in self.parts if was_running(part.old)}

    def _create(self, part: Part, made: Sequence[Part]) -> str:
        return recreation_of(part.source or part.old).build(
            self.engine, f"{part.name}{NEW}", lambda body: self._adapt(body, part, made)
        )

    def _adapt(self, body: dict[str, Any], part: Part, made: Sequence[Part]) -> None:
        """Give a new container its image, without the defaults of the old one, and lead references to the new ones."""
        if part.image:
            old_image, name = str(part.old["Image"]), part.reference or str(part.old["Config"]["Image"])
            host, endpoints = body.pop("HostConfig"), body.pop("NetworkingConfig")
            settings = drop_inherited(body, self._image_config(old_image))
            if settings["Labels"].get(COMPOSE_IMAGE) == old_image:
                settings["Labels"][COMPOSE_IMAGE] = part.image
            # The name is kept for people and for the next update, if it leads to the image that was checked.
            settings["Image"] = name if self.engine.image_id(name) == part.image else part.image
            body.clear()
            body.update({**settings, "HostConfig": host, "NetworkingConfig": endpoints})
        ids = [(other, str(one["Id"])) for other in made for one in (other.old, other.source) if one]
        new_ids = {name: other.new_id for other, old in ids for name in (old, old[:12], other.name)}
        host = body["HostConfig"]
        for key in JOINED_MODES:
            mode, _, target = str(host.get(key) or "").partition(":")
            if mode == "container" and target in new_ids:
                host[key] = f"container:{new_ids[target]}"
        links = [one.split(":", 1) for one in host.get("Links") or ()]
        host["Links"] = [f"{new_ids.get(name, name)}:{alias}" for name, alias in links] or None

    def _image_config(self, image: str) -> Mapping[str, Any]:
        with engine_errors():
            found = self.engine.client().inspect_image(image)  # type: ignore[no-untyped-call]  # the stubs leave it out
        return compat.mapping(compat.image(found).get("Config"))

    def _stop(self, part: Part) -> None:
        if not was_running(part.old):
            return
        seconds = compat.number(part.old["Config"].get("StopTimeout"))
        seconds = STOP_SECONDS if seconds is None else min(seconds, LONGEST_STOP_SECONDS)
        with suppress(NotFound), engine_errors(missing=_gone, doing=f"to stop `{part.name}`"):
            self.engine.client(CHANGE_TIMEOUT).stop(part.old_id, timeout=seconds)
        if part.old["HostConfig"].get("AutoRemove"):
            # Its name is free only once it is gone.
            with suppress(NotFound), engine_errors(missing=_gone):
                self.engine.client(CHANGE_TIMEOUT).wait(part.old_id, condition="removed")

    def _start(self, identifier: str, name: str) -> None:
        with engine_errors(doing=f"to start `{name}`"):
            self.engine.client(CHANGE_TIMEOUT).start(identifier)

    def _rename(self, identifier: str, name: str) -> None:
        found = self._find(identifier)
        if found is not None and found["Name"].lstrip("/") != name:
            with engine_errors(doing=f"to rename `{found['Name'].lstrip('/')}`"):
                self.engine.client(CHANGE_TIMEOUT).rename(identifier, name)

    def _remove(self, identifier: str, *, volumes: bool = True) -> None:
        """Remove a container if it exists. `volumes`: with those that were made for it, not those it took over."""
        with suppress(NotFound), engine_errors(missing=_gone):
            self.engine.client(CHANGE_TIMEOUT).remove_container(identifier, force=True, v=volumes)

    def _find(self, identifier: str) -> Mapping[str, Any] | None:
        try:
            return self.engine.inspect(identifier)
        except NotFound:
            return None


def recreation_of(old: Mapping[str, Any]) -> Recreation:
    """How to create a container again from its inspection."""
    return Recreation(LoggedChange("", "update", str(old["Id"]), name_of(old), "", 0.0, old))


def name_of(container: Mapping[str, Any]) -> str:
    """Name of an inspected container."""
    return str(container["Name"]).lstrip("/")


def was_running(container: Mapping[str, Any]) -> bool:
    """Whether an inspected container runs."""
    return container["State"]["Status"] in RUNNING_STATES


def dependents(engine: Engine, replaced: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Inspected containers that use the namespaces of these, or are linked to them, in the order to start them."""
    found = list(replaced)
    others = [one for one in engine.containers(all=True) if one["Id"] not in {known["Id"] for known in found}]
    inspected = []
    for one in others:
        with suppress(NotFound):
            inspected.append(engine.inspect(one["Id"]))
    count = len(found)
    for known in found:
        for other in inspected:
            if other not in found and _depends(other, known):
                found.append(other)
    return found[count:]


def in_start_order(parts: Sequence[Part]) -> list[Part]:
    """Containers after those whose namespaces they use, and after the services that Compose starts before them."""
    left, ordered = list(parts), list[Part]()
    while left:
        ready = [
            one for one in left if not any(_starts_after(one.old, other.old) for other in left if other is not one)
        ]
        ordered += ready or left
        left = [one for one in left if one not in ready] if ready else []
    return ordered


def _starts_after(container: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    labels, before = container["Config"]["Labels"], other["Config"]["Labels"]
    services = {one.partition(":")[0] for one in str(labels.get(DEPENDS_ON) or "").split(",")}
    return _depends(container, other) or str(before.get(SERVICE) or " ") in services


def _depends(container: Mapping[str, Any], on: Mapping[str, Any]) -> bool:
    host, name = container["HostConfig"], name_of(on)
    wanted = {f"container:{one}" for one in (on["Id"], on["Id"][:12], name)}
    linked = {str(one).partition(":")[0].lstrip("/") for one in host.get("Links") or ()}
    return not wanted.isdisjoint(str(host.get(key) or "") for key in JOINED_MODES) or name in linked


def _gone() -> NotFound:
    return NotFound("it is gone")
