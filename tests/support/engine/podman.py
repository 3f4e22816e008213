"""A private Podman with the Docker API, as a second real engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.engine.daemon import Daemon
from tests.support.engine.engines import IMAGES, RealEngine

IMAGE = f"docker.io/{IMAGES[2]}"
"""The test image as Podman names it."""


class Podman(Daemon):
    """`podman system service` in its own namespaces."""

    program = "podman"
    prepare = """
busybox=$0; name=$1; shift
$busybox hostname "$name"
$busybox ip link set lo up
$busybox mount -t tmpfs tmpfs /run
$busybox mkdir -p /run/podman
exec podman "$@"
"""

    def _options(self) -> list[str]:
        places = {"root": self.folder / "data", "runroot": "/run/podman/runroot", "tmpdir": "/run/podman/tmp"}
        options = [f"--{option}={place}" for option, place in places.items()]
        own = ["--cgroup-manager=cgroupfs", "--events-backend=file", "--log-level=warn"]
        return [*options, *own, "system", "service", "--time=0", self.url]


@contextmanager
def private_podman(name: str) -> Iterator[RealEngine]:
    """Start a private Podman with the test images.

    Raises:
        UnavailableError: a requirement is missing here.
    """
    daemon = Podman(name)
    try:
        daemon.start()
        engine = RealEngine({"DOCKER_HOST": daemon.url}, daemon)
        try:
            engine.import_images()
            yield engine
        finally:
            engine.close()
    finally:
        daemon.close()
