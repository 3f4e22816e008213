"""Deploy a stack: validate, check rights, compare, pull, have Compose bring it up, watch it, and keep the version."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import (
    AnvylError,
    Cancelled,
    Denied,
    EngineError,
    Incomplete,
    InvalidInput,
    NotFound,
    Timeout,
    Unknown,
)
from anvyl_mcp.server.auth.callers import CURRENT_CALLER
from anvyl_mcp.server.containers.own_container import check_not_own
from anvyl_mcp.server.engine import lookup
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.pull import ensure_image, pull_image
from anvyl_mcp.server.policy.name_forms import spellings
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.stacks.compose_file import mask_values
from anvyl_mcp.server.stacks.compose_runner import Compose
from anvyl_mcp.server.stacks.configuration import Configuration, StackFile, env_text, resolve, with_hashes
from anvyl_mcp.server.stacks.difference import ServiceChange, compare
from anvyl_mcp.server.stacks.lifecycle import StackWatch
from anvyl_mcp.server.stacks.projects import Project, find_projects
from anvyl_mcp.server.stacks.stack_rights import (
    ContainerTools,
    PolicyCheck,
    check_deployment,
    create_arguments,
    host_access_reasons,
    root_reasons,
)
from anvyl_mcp.server.stacks.version_store import StackVersion, VersionStore

UP_SECONDS = 600.0
PULLED_ALWAYS = ("always", "daily", "weekly", "refresh")
NEXT_STEPS = "deploy a corrected file, or go back: anvyl stack revert {stack}; or remove it: anvyl stack rm {stack}"


@dataclass(frozen=True)
class Plan:
    """A checked deployment: what would be deployed, and what that changes."""

    stack: str
    file: StackFile
    configuration: Configuration
    changes: Sequence[ServiceChange]
    project: Project
    folder: Path
    note: str = ""
    foreign: bool = False
    """Whether the stack runs, but no version of it is kept, because it was not deployed through Anvyl."""

    @property
    def changed(self) -> list[str]:
        """Services that are created, replaced or started."""
        return [one.service for one in self.changes if one.change in ("added", "changed", "started")]

    @property
    def warnings(self) -> list[str]:
        """What a person should know before agreeing."""
        exec_only = [f"needs the scope exec: {reason}" for reason in root_reasons(self.configuration)]
        files = f" ({', '.join(self.project.config_files)})" if self.project.config_files else ""
        foreign = f"the containers of `{self.stack}` that are here were not deployed through Anvyl{files}"
        return [*([foreign] if self.foreign else []), *exec_only, *self.configuration.warnings]

    @property
    def has_changes(self) -> bool:
        """Whether anything differs from what runs."""
        return any(one.change != "unchanged" for one in self.changes)


@dataclass(frozen=True)
class Deployer:
    """Plans and makes deployments on this host. `permit` checks the policy, for the tools of containers."""

    engine: Engine
    store: VersionStore
    tools: ContainerTools
    permit: PolicyCheck
    progress: Progress

    def read_sent(self, stack: str, compose: str, variables: Sequence[str]) -> StackFile:
        """A file that the caller sent. Without `variables`, those of the deployed version may be used again.

        Raises:
            InvalidInput: it cannot be parsed.
            Denied: Compose would read files of this host for it, and the caller lacks the scope.
        """
        project = find_projects(self.engine).get(stack, Project(stack))
        current = self.store.current(stack)
        if current and not variables and (compose == current.compose or CURRENT_CALLER.get().may("exec")):
            # In another file, they could be shown: that needs the scope that shows secrets.
            variables = current.variables
        file = StackFile.sent(self.engine, compose, variables, project.working_dir)
        if reasons := host_access_reasons(file.tree):
            CURRENT_CALLER.get().require("exec", f"deploying `{stack}` ({'; '.join(reasons)})")
        return file

    def read_stored(self, stack: str) -> StackFile:
        """The file of the version that is deployed now, or the stack's own files on this host.

        Raises:
            NotFound: there is no such stack, or its files are not here.
            Denied: its own files are to be read, and the caller lacks the scope.
        """
        current = self.store.current(stack)
        if current is not None and current.compose:
            return self.read_sent(stack, current.compose, current.variables)
        CURRENT_CALLER.get().require("exec", f"deploying `{stack}` from its own files on the host")
        project = find_projects(self.engine).get(stack)
        if project is None:
            raise NotFound(f"there is no stack `{stack}` on this host", hint="send its Compose file")
        return StackFile.own(project)

    def plan(self, stack: str, file: StackFile, images: Mapping[str, str] | None = None, note: str = "") -> Plan:
        """Validate a file, check that the caller may deploy it, and compare it with what runs. Changes nothing.

        `images`: other images for some services.

        Raises:
            InvalidInput: Compose rejects the file.
            Denied: a scope is missing, or the policy or a label forbids it.
        """
        folder = Path(file.folder) if file.folder else self.store.folder(stack)
        configuration = resolve(self.engine, stack, file, folder)
        _require_files(configuration, folder)
        return self.plan_configuration(stack, file, configuration.with_images(images or {}), note)

    def plan_configuration(self, stack: str, file: StackFile, configuration: Configuration, note: str = "") -> Plan:
        """Like `plan`, for a configuration that was resolved before."""
        folder = Path(file.folder) if file.folder else self.store.folder(stack)
        check_deployment(self.engine, configuration, self.tools.create, self.permit)
        configuration = with_hashes(self.engine, stack, configuration, folder)
        project = find_projects(self.engine).get(stack, Project(stack))
        changes = compare(self.engine, project, configuration, self.store.current(stack), file.variables)
        foreign = bool(project.containers and file.compose and not self.store.versions(stack))
        plan = Plan(stack, file, configuration, changes, project, folder, note, foreign)
        self._check_replaced(plan)
        return plan

    def deploy(self, plan: Plan) -> StackVersion:
        """Make a planned deployment, and return its version.

        Raises:
            Incomplete: it was done in part; the message names the services that failed.
            Cancelled, Timeout, Unknown: it may have been done in part.
            AnvylError: an image cannot be pulled; nothing was changed.
        """
        current = self.store.current(plan.stack)
        if not plan.has_changes and current and current.config == plan.configuration.config:
            return current
        self._pull(plan)
        file, stack = plan.file, plan.stack
        path = self.store.write_file(stack, "compose.json", json.dumps(plan.configuration.config, ensure_ascii=False))
        variables = self.store.write_file(stack, ".env", env_text(file.variables))
        version = self.store.begin(
            stack,
            StackVersion(
                number=0,
                at=0,
                who=CURRENT_CALLER.get().name,
                compose=file.compose,
                variables=file.variables,
                config=plan.configuration.config,
                hashes=plan.configuration.hashes,
                profiles=file.profiles,
                working_dir=file.folder,
                note=plan.note,
            ),
        )
        compose = Compose(self.engine, stack, plan.folder, [str(path)], [*file.env_files, str(variables)])
        try:
            self._bring_up(compose, plan)
            StackWatch(self.engine, stack, self.progress).wait()
        except (Cancelled, EngineError, Timeout, Unknown) as error:
            # The version stays pending: what it left is seen in the list of its services.
            reason = mask_values(error.message, file.variables)
            raise type(error)(f"{reason}{self._left_behind(stack)}", hint=error.hint) from error
        except AnvylError as error:
            self.store.finish(stack, version.number, "failed")
            said = mask_values(error.message, file.variables)
            what = f"`{stack}` was deployed in part: {said}"
            reason = said if isinstance(error, Incomplete) else f"{what}{self._left_behind(stack)}"
            raise Incomplete(reason, hint=NEXT_STEPS.format(stack=stack)) from error
        images = running_images(self.engine, stack, plan.configuration)
        self.store.finish(stack, version.number, "deployed", images)
        return replace(version, outcome="deployed", images=images)

    def _bring_up(self, compose: Compose, plan: Plan) -> None:
        options = ["--detach", "--no-build", "--pull", "never"]
        services: list[str] = []
        if any(one.protected for one in plan.project.containers):
            # Compose may touch only the services that `_check_replaced` has allowed to change.
            if not plan.changed:
                return
            options, services = [*options, "--no-deps"], plan.changed
        else:
            options.append("--remove-orphans")
        doing = f"deploying {plan.stack}"
        compose.run("up", *options, *services, seconds=UP_SECONDS, progress=self.progress, doing=doing)

    def _check_replaced(self, plan: Plan) -> None:
        """Return if the caller may replace and remove the containers that the deployment replaces or removes."""
        touched = {one.service for one in plan.changes if one.change in ("changed", "removed", "started")}
        orphans = {one.service for one in plan.changes if one.change == "removed"}
        protected = [one for one in plan.project.containers if one.protected]
        for one in protected:
            if one.service in touched or orphans:
                raise Denied(
                    f"`{one.name}` of the stack `{plan.stack}` must not be changed through Anvyl: "
                    "it has the label `anvyl.protect=true`",
                    hint="deploy the stack with docker compose on the host itself",
                )
        for one in plan.project.containers:
            if one.service in touched:
                self.permit(self.tools.remove, {"name": one.name})
                check_not_own(self.engine.inspect(one.id), plan.stack)

    def _pull(self, plan: Plan) -> None:
        """Pull missing images, and those whose policy says so; then check the policy again for what was pulled."""
        for name, service in plan.configuration.services.items():
            image = str(service.get("image") or "")
            platform, policy = str(service.get("platform") or ""), str(service.get("pull_policy") or "")
            if not image:
                self._require_built(plan.stack, name)
            elif policy in PULLED_ALWAYS or policy.startswith("every_"):
                pull_image(self.engine, image, self.progress, platform=platform)
            elif policy != "never" and not (service.get("build") and self.engine.image_id(image)):
                ensure_image(self.engine, image, self.progress, platform=platform)
        for name in plan.configuration.services:
            self.permit(self.tools.create, create_arguments(plan.configuration, name, ""))

    def _require_built(self, stack: str, service: str) -> None:
        if not self.engine.image_id(f"{stack}-{service}"):
            raise NotFound(
                f"`{service}` of `{stack}` is built from a Dockerfile, and its image is not on this host",
                hint="Anvyl does not build images: push it to a registry and name it as `image:`, or build it there",
            )

    def _left_behind(self, stack: str) -> str:
        """The state of each service now, to end a sentence."""
        with suppress(AnvylError):
            project = find_projects(self.engine).get(stack)
            if project is None:
                return "; no container of it exists now"
            states = [f"{one.name} is {one.state}" for one in project.containers]
            return f"; now {', '.join(states)}"
        return ""


def _require_files(configuration: Configuration, folder: Path) -> None:
    """Return if the secrets and configs from files next to the Compose file are on this host.

    Raises:
        InvalidInput: one is not: it was not sent.
    """
    for kind in ("secrets", "configs"):
        for name, one in dict(configuration.config.get(kind) or {}).items():
            path = Path(str(one.get("file") or folder))
            if folder in path.parents and not path.exists():
                raise InvalidInput(
                    f"the {kind.removesuffix('s')} `{name}` is the file {path.relative_to(folder)}, which was not sent",
                    hint="put it on the host and name it by its whole path, or use `content:` or `environment:`",
                )


def running_images(engine: Engine, stack: str, configuration: Configuration) -> dict[str, str]:
    """For each service a reference to exactly the image that its containers run."""
    project = find_projects(engine).get(stack, Project(stack))
    found = {}
    for name, containers in project.services.items():
        if name in configuration.services:
            image = str(configuration.services[name].get("image") or containers[0].image)
            found[name] = pinned_image(engine, image, containers[0].image_id)
    return found


def pinned_image(engine: Engine, image: str, image_id: str) -> str:
    """A reference to an image that stays the same when its tag moves: with its digest in the registry, or its id."""
    if "@" in image:
        return image
    try:
        found = lookup.find_image(engine, image_id)
    except NotFound:
        return image_id
    own = set(spellings("image", repository_of(image)))
    for reference in map(str, found.get("RepoDigests") or ()):
        repository, _, digest = reference.partition("@")
        if digest and not own.isdisjoint(spellings("image", repository)):
            return f"{image}@{digest}"
    return image_id


def unmoved_images(engine: Engine, version: StackVersion) -> dict[str, str]:
    """For each service of a version the image that ran: by its tag if that is still the same, otherwise pinned."""
    found = {}
    for name, pinned in version.images.items():
        tag = str(version.services[name].get("image") or "") if name in version.services else ""
        same = tag and (engine.image_id(tag) or "none") == engine.image_id(pinned)
        found[name] = tag if same else pinned
    return found


def repository_of(image: str) -> str:
    """An image reference without tag and digest."""
    rest = image.partition("@")[0]
    colon = rest.rfind(":")
    return rest[:colon] if colon > rest.rfind("/") else rest


def describe_changes(changes: Sequence[ServiceChange]) -> list[str]:
    """One line for each service that changes."""
    signs = {"added": "+", "removed": "-", "changed": "~", "started": ">"}
    return [
        text.clean(f"{signs[one.change]} {one.service}: {', '.join([one.change, *one.details])}")
        for one in changes
        if one.change != "unchanged"
    ]
