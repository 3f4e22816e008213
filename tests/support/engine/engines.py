"""Real Docker engines for the tests: private ones, or the one of this machine."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, NotFound

from tests.support.engine.daemon import Daemon, UnavailableError, answers, static_busybox

IMAGES = ("busybox:latest", "anvyl-test/busybox:latest", "anvyl-test/web:1")
"""One image with three names; its default command keeps running and stops immediately on SIGTERM."""
LABEL = "anvyl.test"
SLEEP = ("sleep", "3600")
COMMAND = """CMD ["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"]"""


class RealEngine:
    """A real Docker engine with the test images and a client for its API."""

    def __init__(self, environment: Mapping[str, str], daemon: Daemon | None = None) -> None:
        self.environment = dict(environment)
        self.url = self.environment["DOCKER_HOST"]
        self._daemon = daemon
        self.api = self._client()
        self._imported: list[str] = []

    @property
    def answers(self) -> bool:
        """Whether the engine answers."""
        scheme, _, path = self.url.partition("://")
        return answers(Path(path)) if scheme == "unix" else bool(self.api.ping())

    def _client(self) -> docker.APIClient:
        # Pinged first because docker-py leaves the socket of a failed connection open: docker/docker-py#3356.
        if self.url.startswith("unix://") and not self.answers:
            raise UnavailableError(f"no Docker engine answers at {self.url}")
        try:
            return docker.from_env(environment=self.environment, timeout=30).api
        except DockerException as error:
            raise UnavailableError(f"no Docker engine answers at {self.url}") from error

    @property
    def private(self) -> bool:
        """Whether the engine belongs to the tests."""
        return self._daemon is not None

    @property
    def process(self) -> int:
        """Pid of a process in the network namespace of a private engine."""
        return self._own().pid

    def create(
        self,
        name: str,
        command: str | Sequence[str] = SLEEP,
        image: str = IMAGES[0],
        labels: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        healthcheck: Mapping[str, Any] | None = None,
        **host_config: Any,
    ) -> str:
        """Create a container and return its id. `init` is set, so that any command stops immediately."""
        made = self.api.create_container(
            image,
            name=name,
            command=command if isinstance(command, str) else list(command),
            labels={LABEL: "1", **(labels or {})},
            environment=dict(environment or {}),
            healthcheck=dict(healthcheck) if healthcheck else None,
            ports=list(host_config.get("port_bindings", ())),
            host_config=self.api.create_host_config(**{"init": True, **host_config}),
        )
        return str(made["Id"])

    def run(self, name: str, command: str | Sequence[str] = SLEEP, image: str = IMAGES[0], **options: Any) -> str:
        """Create and start a container; returns its id."""
        created = self.create(name, command, image, **options)
        self.api.start(created)
        return created

    def state(self, name: str) -> str | None:
        """`running`, `exited`, `created`…, or None if the container does not exist."""
        try:
            return str(self.api.inspect_container(name)["State"]["Status"])
        except NotFound:
            return None

    def output(self, name: str, command: str) -> str:
        """Run a command in a container and return its output."""
        made = self.api.exec_create(name, command)
        printed: bytes = self.api.exec_start(made["Id"])
        return printed.decode()

    def stop(self) -> None:
        """Stop the engine itself."""
        self._own().stop()
        self.api.close()

    def kill(self) -> None:
        """Kill the engine and its containers, as in a power failure."""
        self._own().kill()
        self.api.close()

    def hang(self) -> None:
        """Suspend the engine: it accepts requests and answers none until `resume`."""
        self._own().hang()

    def resume(self) -> None:
        """Resume a suspended engine."""
        self._own().resume()

    def start(self) -> None:
        """Start the engine again; it keeps its containers."""
        self._own().start()
        self.api = self._client()

    def _own(self) -> Daemon:
        if self._daemon is None:
            pytest.skip("only a private engine can be stopped")
        return self._daemon

    def clean(self) -> None:
        """Start the engine if a test stopped it, and remove the containers of tests."""
        if self._daemon is not None:
            self._daemon.resume()
            if not self._daemon.running:
                self.start()
        for container in self.api.containers(all=True):
            if self.private or LABEL in container["Labels"] or self._is_test_image(container["Image"]):
                with contextlib.suppress(NotFound):
                    self.api.remove_container(container["Id"], force=True, v=True)

    def _is_test_image(self, image: str) -> bool:
        return image in self._imported or image in IMAGES[1:]

    def import_images(self) -> None:
        """Import the missing test images.

        Raises:
            UnavailableError: there is neither a static busybox nor an image to pull.
        """
        self._imported = [image for image in IMAGES if not self._has(image)]
        source = IMAGES[0]
        if IMAGES[1] in self._imported:
            try:
                self.api.import_image_from_data(_busybox_tar(), repository=IMAGES[1], changes=[COMMAND])
                source = IMAGES[1]
            except UnavailableError:
                self._pull(source)
        for image in self._imported:
            repository, tag = image.split(":")
            self.api.tag(source, repository, tag)

    def _pull(self, image: str) -> None:
        if self._has(image):
            return
        try:
            self.api.pull(image)
        except APIError as error:
            raise UnavailableError(f"there is no static busybox here and `{image}` cannot be pulled") from error

    def _has(self, image: str) -> bool:
        return bool(self.api.images(name=image))

    def close(self) -> None:
        """Remove the containers and images of the tests."""
        try:
            if not self.private:
                self.clean()
                for image in self._imported:
                    with contextlib.suppress(APIError):
                        self.api.remove_image(image)
        finally:
            self.api.close()


@contextmanager
def private_engine(name: str, network: Sequence[str] = (), zone: str = "") -> Iterator[RealEngine]:
    """Start a private engine with the host name `name`; `network` and `zone` as in `Daemon`.

    Raises:
        UnavailableError: a requirement is missing here.
    """
    daemon = Daemon(name, network, zone)
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


@contextmanager
def reachable_engine(environ: Mapping[str, str]) -> Iterator[RealEngine]:
    """Use the engine of the Docker command line.

    Raises:
        UnavailableError: no engine answers, or it cannot get the test images.
    """
    chosen = {name: value for name, value in environ.items() if name.startswith("DOCKER_")}
    if "DOCKER_HOST" not in chosen:
        context = ContextAPI.kwargs_from_context(environment=dict(environ))
        chosen["DOCKER_HOST"] = context.get("base_url") or "unix:///var/run/docker.sock"
    engine = RealEngine(chosen)
    try:
        engine.import_images()
        yield engine
    finally:
        engine.close()


@contextmanager
def any_engine(name: str, environ: Mapping[str, str]) -> Iterator[RealEngine]:
    """Use a private engine if possible, else a reachable one.

    Raises:
        UnavailableError: there is neither.
    """
    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(private_engine(name))
        except UnavailableError as no_private:
            try:
                engine = stack.enter_context(reachable_engine(environ))
            except UnavailableError as none:
                raise UnavailableError(f"{no_private}; {none}") from none
        yield engine


def _busybox_tar() -> bytes:
    """Tar of a root file system with busybox and links for all its applets."""
    busybox = static_busybox()
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "etc", "root", "tmp", "var"):
            tar.addfile(_entry(folder, tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755))
        tar.add(Path(busybox).resolve(), "bin/busybox")
        for applet in set(applets) - {"busybox"}:
            link = _entry(f"bin/{applet}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            tar.addfile(link)
    return buffer.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.mode = mode
    return entry
