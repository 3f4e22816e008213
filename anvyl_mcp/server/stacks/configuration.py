"""The configuration of a stack, as Compose resolves it from a file and variables."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anvyl_mcp.core.errors import InvalidInput, NotFound
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.stacks.compose_file import (
    invalid_file,
    mask_values,
    parse_compose,
    split_variables,
    without_extensions,
)
from anvyl_mcp.server.stacks.compose_runner import Compose, ComposeFailed
from anvyl_mcp.server.stacks.projects import Project

CONFIG_SECONDS = 30
MAX_OWN_FILES = 20

Service = Mapping[str, Any]


@dataclass(frozen=True)
class StackFile:
    """What a stack is made from: the text and variables that were sent, or its own files on this host."""

    compose: str = ""
    variables: Sequence[str] = ()
    profiles: Sequence[str] = ()
    tree: Mapping[str, Any] = field(default_factory=dict)
    """The parsed text."""
    folder: str = ""
    """Folder that relative paths start from."""
    files: Sequence[str] = ()
    """Its own files on this host, if it was not sent."""
    env_files: Sequence[str] = ()

    @classmethod
    def sent(cls, engine: Engine, compose: str, variables: Sequence[str], folder: str) -> StackFile:
        """A file that a caller sent.

        Raises:
            InvalidInput: it cannot be parsed.
        """
        kept, profiles = split_variables(variables)
        return cls(compose, kept, profiles, without_extensions(parse_compose(engine, compose)), folder)

    @classmethod
    def own(cls, project: Project) -> StackFile:
        """The files from which somebody deployed a stack by hand. Only for callers who may read the host's files.

        Raises:
            NotFound: they are not on this host, or not visible to this server.
        """
        missing = [file for file in project.config_files if not Path(file).is_file()]
        if missing or not project.config_files or len(project.config_files) > MAX_OWN_FILES:
            what = f"`{missing[0]}` is not here" if missing else "its containers do not say where they are"
            raise NotFound(
                f"the Compose files of the stack `{project.name}` cannot be found on this host: {what}",
                hint="send the file: anvyl stack up FILE",
            )
        default = Path(project.working_dir, ".env")
        env_files = [one for one in project.env_files if Path(one).is_file()] or (
            [str(default)] if project.working_dir and default.is_file() else []
        )
        return cls(folder=project.working_dir, files=project.config_files, env_files=env_files)


@dataclass(frozen=True)
class Configuration:
    """A resolved configuration: the complete content of what Compose deploys."""

    config: Mapping[str, Any]
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Compose's hash of each service; a container with another one is replaced."""
    warnings: Sequence[str] = ()

    @property
    def services(self) -> dict[str, Service]:
        """The services by name."""
        return dict(self.config.get("services") or {})

    def with_images(self, images: Mapping[str, str]) -> Configuration:
        """The same configuration with other images for some services, which are then never pulled by policy."""
        services = {
            name: {**{key: value for key, value in one.items() if key != "pull_policy"}, "image": images[name]}
            if name in images
            else one
            for name, one in self.services.items()
        }
        return replace(self, config={**self.config, "services": services}, hashes={})

    def volume_name(self, source: str) -> str:
        """The name in the engine of a volume that a service mounts."""
        return str((_mapping(self.config.get("volumes")).get(source) or {}).get("name") or source)

    def network_name(self, network: str) -> str:
        """The name in the engine of a network that a service joins."""
        return str((_mapping(self.config.get("networks")).get(network) or {}).get("name") or network)

    def replicas(self, service: str) -> int:
        """How many containers a service has."""
        one = self.services[service]
        count = _mapping(one.get("deploy")).get("replicas", one.get("scale", 1))
        return int(count) if isinstance(count, int | float | str) and str(count).isdecimal() else 1


def resolve(engine: Engine, stack: str, file: StackFile, folder: Path) -> Configuration:
    """Have Compose validate a file and replace its variables. `folder`: project directory if the file has none.

    Raises:
        InvalidInput: Compose rejects it; the message names the line.
    """
    with _compose(engine, stack, file, folder) as compose:
        try:
            printed = compose.run("config", "--format", "json", seconds=CONFIG_SECONDS)
        except ComposeFailed as error:
            raise invalid_file(ComposeFailed(mask_values(error.message, file.variables)), file.compose) from error
    config = json.loads(printed.stdout)
    if not config.get("services"):
        raise InvalidInput("the Compose file has no active services", hint="check their `profiles`")
    # All services that Compose returns are active, whatever their profiles.
    services = {name: {**one, "profiles": []} for name, one in config["services"].items()}
    warnings = [one for one in printed.warnings if "`version` is obsolete" not in one]
    return Configuration({**config, "name": stack, "services": services}, warnings=warnings)


def with_hashes(engine: Engine, stack: str, configuration: Configuration, folder: Path) -> Configuration:
    """Add Compose's hash of each service."""
    with _compose(engine, stack, StackFile(tree=configuration.config), folder) as compose:
        printed = compose.run("config", "--hash", "*", seconds=CONFIG_SECONDS)
    pairs = (line.split() for line in printed.stdout.splitlines())
    return replace(configuration, hashes={pair[0]: pair[1] for pair in pairs if len(pair) == 2})


@contextmanager
def _compose(engine: Engine, stack: str, file: StackFile, folder: Path) -> Iterator[Compose]:
    """Compose with the parsed content of a file, in a private folder that exists meanwhile."""
    with tempfile.TemporaryDirectory(prefix="anvyl-stack-") as place:
        files, env_files = list(file.files), list(file.env_files)
        if not files:
            files = [_write(place, "compose.json", json.dumps(file.tree, ensure_ascii=False))]
            env_files = [_write(place, "variables", env_text(file.variables))]
        project_folder = Path(file.folder) if file.folder else folder
        yield Compose(engine, stack, project_folder, files, env_files, file.profiles)


def env_text(variables: Iterable[str]) -> str:
    """The content of an `.env` file."""
    return "".join(f"{one}\n" for one in variables)


def _write(folder: str, name: str, content: str) -> str:
    path = Path(folder, name)
    write_atomically(path, content, durable=False)
    return str(path)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
