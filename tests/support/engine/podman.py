"""A private Podman that speaks Docker's API: the second real implementation of an engine that our tools meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.engine.daemon import Daemon
from tests.support.engine.engines import IMAGES, RealEngine

IMAGE = f"docker.io/{IMAGES[2]}"
"""The test image as Podman names it."""


class Podman(Daemon):
    """`podman system service` in namespaces of its own."""

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
    """A Podman with the test images, gone afterwards.

    Raises:
        UnavailableError: this user or this machine cannot start one.
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
