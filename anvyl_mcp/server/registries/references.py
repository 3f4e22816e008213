"""Image references: which registry, repository and tag an image name means."""

from __future__ import annotations

from dataclasses import dataclass

from anvyl_mcp.server.policy import object_names

DOCKER_HUB = "docker.io"
DOCKER_HUB_HOST = "registry-1.docker.io"
"""The host that serves the API of Docker Hub."""
DEFAULT_TAG = "latest"


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A parsed image name. `digest` is set if the name pins one."""

    registry: str
    repository: str
    tag: str
    digest: str = ""

    @property
    def host(self) -> str:
        """Host and port of the registry's API."""
        return DOCKER_HUB_HOST if self.registry == DOCKER_HUB else self.registry

    def __str__(self) -> str:
        """The full name, the same for every way to write it."""
        return f"{self.registry}/{self.repository}:{self.tag}"


def parse_reference(image: str) -> ImageReference | None:
    """Parse an image name as Docker does; None if it is an image id or malformed."""
    if not object_names.is_valid("image", image) or image.startswith("sha256:"):
        return None
    name, _, digest = image.partition("@")
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, path = first, rest
    else:
        registry, path = DOCKER_HUB, name
    if registry in (f"index.{DOCKER_HUB}", DOCKER_HUB_HOST):
        registry = DOCKER_HUB
    repository, _, tag = path.partition(":")
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return ImageReference(registry, repository, tag or DEFAULT_TAG, digest)
