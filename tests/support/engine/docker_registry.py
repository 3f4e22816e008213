"""Debian's docker-registry in the network namespace of a private engine: images are pushed, and tags move."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.engine.engines import RealEngine

PORT = 5001
"""Docker speaks plain HTTP to registries on loopback."""
CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
log: {{level: error}}
"""


class DockerRegistry:
    """A real registry that a private engine pushes to and pulls from."""

    def __init__(self, engine: RealEngine, port: int) -> None:
        self._engine = engine
        self.address = f"127.0.0.1:{port}"

    def push(self, name: str, *, source: str = "anvyl-test/busybox:latest", version: str) -> str:
        """Push an image that differs by its label `version`, as `name`; returns its digest. The tag here stays."""
        reference = f"{self.address}/{name}"
        repository, tag = reference.rsplit(":", 1)
        made = self._engine.api.create_container(source, labels={"version": version})
        try:
            self._engine.api.commit(made["Id"], repository=repository, tag=tag)
        finally:
            self._engine.api.remove_container(made["Id"])
        for line in self._engine.api.push(repository, tag=tag, stream=True, decode=True):
            assert "error" not in line, line
        found = self._engine.api.inspect_image(reference)  # type: ignore[no-untyped-call]  # the stubs leave it out
        digests = found["RepoDigests"]
        return str(digests[-1].partition("@")[2])

    def forget(self, name: str) -> None:
        """Remove an image from the engine; the registry keeps it."""
        self._engine.api.remove_image(f"{self.address}/{name}", force=True)


@contextmanager
def docker_registry(engine: RealEngine, folder: Path, *, port: int = PORT) -> Iterator[DockerRegistry]:
    """Run a registry for a private engine; its images are gone afterwards."""
    program = shutil.which("docker-registry")
    if not engine.private or program is None:
        pytest.skip("needs a private engine and docker-registry")
    config = folder / "registry.yml"
    config.write_text(CONFIG.format(folder=folder / "images", port=port), encoding="utf-8")
    process = subprocess.Popen(
        ["nsenter", f"--net=/proc/{engine.process}/ns/net", program, "serve", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(engine, port)
        yield DockerRegistry(engine, port)
    finally:
        process.kill()
        process.wait()


def _wait(engine: RealEngine, port: int) -> None:
    deadline = time.monotonic() + 10
    address = f"http://127.0.0.1:{port}/v2/"
    probe = ["nsenter", f"--net=/proc/{engine.process}/ns/net", "busybox", "wget", "-q", "-O", "/dev/null", address]
    while subprocess.run(probe, check=False, stderr=subprocess.DEVNULL).returncode:
        assert time.monotonic() < deadline, "the registry does not start"
        time.sleep(0.05)  # there is no event for the port
