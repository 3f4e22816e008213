"""Real Docker engines for the tests: private ones started here, or the one that this machine already has."""

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
"""One image under three names; without a command of its own it stays up and stops at once."""
LABEL = "anvyl.test"
SLEEP = ("sleep", "3600")
COMMAND = """CMD ["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"]"""


class RealEngine:
    """A real Docker engine with the test images, seen through its own API."""

    def __init__(self, environment: Mapping[str, str], daemon: Daemon | None = None) -> None:
        self.environment = dict(environment)
        self.url = self.environment["DOCKER_HOST"]
        self._daemon = daemon
        self.api = self._client()
        self._imported: list[str] = []

    @property
    def answers(self) -> bool:
        """Whether the engine answers now."""
        scheme, _, path = self.url.partition("://")
        return answers(Path(path)) if scheme == "unix" else bool(self.api.ping())

    def _client(self) -> docker.APIClient:
        # Asked first because docker-py leaves the socket of a failed connection open: docker/docker-py#3356.
        if self.url.startswith("unix://") and not self.answers:
            raise UnavailableError(f"no Docker engine answers at {self.url}")
        try:
            return docker.from_env(environment=self.environment, timeout=30).api
        except DockerException as error:
            raise UnavailableError(f"no Docker engine answers at {self.url}") from error

    @property
    def private(self) -> bool:
        """Whether the tests own the engine and may do anything to it."""
        return self._daemon is not None

    @property
    def process(self) -> int:
        """The process whose network namespace a private engine is in."""
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
        """Create a container and return its id. `init` is on, so that any command obeys a stop at once."""
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
        """`create`, and start it."""
        created = self.create(name, command, image, **options)
        self.api.start(created)
        return created

    def state(self, name: str) -> str | None:
        """`running`, `exited`, `created`…, or None where there is no such container."""
        try:
            return str(self.api.inspect_container(name)["State"]["Status"])
        except NotFound:
            return None

    def output(self, name: str, command: str) -> str:
        """What a command in a container prints."""
        made = self.api.exec_create(name, command)
        printed: bytes = self.api.exec_start(made["Id"])
        return printed.decode()

    def stop(self) -> None:
        """Stop the engine itself."""
        self._own().stop()
        self.api.close()

    def kill(self) -> None:
        """End the engine itself and its containers without a warning, as a power cut does."""
        self._own().kill()
        self.api.close()

    def hang(self) -> None:
        """Let the engine take requests and answer none, until `resume`."""
        self._own().hang()

    def resume(self) -> None:
        """Let a hanging engine go on."""
        self._own().resume()

    def start(self) -> None:
        """Start the engine again, with the containers that it had."""
        self._own().start()
        self.api = self._client()

    def _own(self) -> Daemon:
        if self._daemon is None:
            pytest.skip("only an engine that the tests own may be stopped")
        return self._daemon

    def clean(self) -> None:
        """Start the engine if a test left it stopped, and remove the containers that tests left."""
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
        """Give the engine every test image that it does not have.

        Raises:
            UnavailableError: there is nothing to make them from.
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
        """Leave nothing of the tests behind."""
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
    """An engine started for the tests, gone afterwards; `name` becomes its host name, the others are as in `Daemon`.

    Raises:
        UnavailableError: this user or this machine cannot start one.
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
    """The engine that the Docker command line would use.

    Raises:
        UnavailableError: none answers, or it has no image to test with.
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
    """A private engine where that is possible, else the one that is reachable.

    Raises:
        UnavailableError: neither is there.
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
    """A root file system with one program under all its names."""
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
