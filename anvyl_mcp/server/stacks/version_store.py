"""The deployed versions of each stack: file, variables, resolved configuration, and the images that ran.

They contain secrets, so only the owner may read the files, and no tool returns them whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from anvyl_mcp.core.errors import ConfigInvalid, NotFound
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.server.auth.secret_file import SecretFile
from anvyl_mcp.server.tool import Injected

MAX_VERSIONS = 10
"""Versions kept of each stack, and the last one that worked if these are all failures."""

DeployOutcome = Literal["pending", "deployed", "failed"]
"""`pending`: it is being deployed, or the server ended while it was."""


@dataclass(frozen=True, slots=True)
class StackVersion:
    """One deployment. `images`: for each service a reference to exactly the image that ran."""

    number: int
    at: float
    who: str
    compose: str
    """The Compose file as it was sent; empty if the stack was deployed from its own files."""
    variables: Sequence[str] = ()
    """Lines of its `.env` file."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The configuration that Compose resolved from both."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Compose's hash of each service, which its containers have as a label."""
    profiles: Sequence[str] = ()
    working_dir: str = ""
    """Folder that relative paths start from; that of its own files for a stack that was deployed by hand."""
    images: Mapping[str, str] = field(default_factory=dict)
    outcome: DeployOutcome = "pending"
    note: str = ""

    @property
    def services(self) -> Mapping[str, Mapping[str, Any]]:
        """The resolved configuration of each service."""
        services: Mapping[str, Mapping[str, Any]] = self.config.get("services") or {}
        return services


class VersionStore(Injected):
    """The versions of all stacks of this host, in a folder for each. Safe for use by several processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, stack: str) -> Path:
        """The project directory of a stack whose files Anvyl keeps."""
        return self._folder / stack

    def stacks(self) -> list[str]:
        """Names of the stacks with stored versions, also of removed ones."""
        with suppress(OSError):
            return sorted(file.parent.name for file in self._folder.glob("*/versions.json"))
        return []

    def versions(self, stack: str) -> list[StackVersion]:
        """The versions of a stack, the newest first.

        Raises:
            ConfigInvalid: the file cannot be used.
        """
        return list(reversed(self._file(stack).read()))

    def current(self, stack: str) -> StackVersion | None:
        """The version that was deployed last, or None.

        Raises:
            ConfigInvalid: the file cannot be used.
        """
        return next((one for one in self.versions(stack) if one.outcome != "failed"), None)

    def find(self, stack: str, number: str, *, removed: bool = False) -> StackVersion:
        """A version by its number; without one, the last one that worked before the newest. `removed`: the stack has no
        containers, so the newest counts too.

        Raises:
            NotFound: there is no such version; the hint lists those that exist.
            ConfigInvalid: the file cannot be used.
        """
        known = self.versions(stack)
        if number:
            found = next((one for one in known if str(one.number) == number.strip().lstrip("v")), None)
        else:
            found = next((one for one in known[0 if removed else 1 :] if one.outcome == "deployed"), None)
        if found is None:
            numbers = ", ".join(str(one.number) for one in known)
            what = f"version `{number}`" if number else "earlier version"
            hint = f"stored versions: {numbers}" if known else "only stacks deployed through Anvyl have versions"
            raise NotFound(f"there is no {what} of the stack `{stack}` on this host", hint=hint)
        return found

    def begin(self, stack: str, version: StackVersion) -> StackVersion:
        """Store a version that is about to be deployed, under the next number.

        Raises:
            ConfigInvalid: it cannot be written, so it must not be deployed.
        """
        with self._file(stack).edit() as versions:
            number = max((one.number for one in versions), default=0) + 1
            started = replace(version, number=number, at=time.time(), outcome="pending")
            versions[:] = _kept([*versions, started])
        return started

    def finish(self, stack: str, number: int, outcome: DeployOutcome, images: Mapping[str, str] | None = None) -> None:
        """Store how a deployment ended, and which images it runs.

        Raises:
            ConfigInvalid: it cannot be written.
        """
        with self._file(stack).edit() as versions:
            versions[:] = [
                replace(one, outcome=outcome, images=images or one.images) if one.number == number else one
                for one in versions
            ]

    def write_file(self, stack: str, name: str, content: str) -> Path:
        """Write a file into the project directory, and return its path.

        Raises:
            ConfigInvalid: it cannot be written.
        """
        path = self.folder(stack) / name
        try:
            write_atomically(path, content)
        except OSError as error:
            raise ConfigInvalid(f"{path} cannot be written: {error.strerror}", hint="check the disk") from error
        return path

    def _file(self, stack: str) -> SecretFile[list[StackVersion]]:
        return SecretFile(
            self.folder(stack) / "versions.json",
            parse=lambda raw: [StackVersion(**one) for one in raw["versions"]],
            dump=lambda versions: {"versions": [asdict(one) for one in versions]},
            start=[],
        )


def _kept(versions: Sequence[StackVersion]) -> list[StackVersion]:
    kept = list(versions[-MAX_VERSIONS:])
    if not any(one.outcome == "deployed" for one in kept[:-1]):
        kept[:0] = [one for one in versions[:-MAX_VERSIONS] if one.outcome == "deployed"][-1:]
    return kept
