"""Whether this process runs in a container, and what it therefore cannot see of the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

MARKS = ("/.dockerenv", "/run/.containerenv")
"""Files that Docker and Podman put into every container."""
VARIABLE = "ANVYL_IMAGE"
"""Set in our own image, to its name."""


def runs_in_container(environ: Mapping[str, str] | None = None) -> bool:
    """Whether this process runs in a container of Docker, Podman or Kubernetes."""
    env = os.environ if environ is None else environ
    return bool(env.get(VARIABLE) or env.get("KUBERNETES_SERVICE_HOST")) or any(Path(mark).exists() for mark in MARKS)


LIMITS = (
    "the server runs in a container: containers, images, networks and volumes are those of the host, and so are "
    "cpu and memory figures; disks, processes and `execute_command` are those of the container"
)
"""What a server in a container can and cannot see."""
