"""Debian's `docker-registry` behind a proxy that listens for a private engine and for the tests, with faults on demand.

with tag_registry(engine) as registry:
    registry.push("app:1", version="1.0.0", created="2026-01-01T00:00:00Z")
    engine.api.pull(registry.image("app:1"))
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import http.server
import io
import json
import shutil
import socket
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from tests.support.engine.daemon import UnavailableError, static_busybox
from tests.support.engine.engines import RealEngine
from tests.support.hosts.lab import enter_namespace

PROGRAM = "docker-registry"
CONFIG = """
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %(folder)s/data}, delete: {enabled: true}}
http: {net: unix, addr: %(folder)s/registry.sock, secret: test}
"""
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OLD = "2026-01-02T03:04:05Z"
"""When images were made, unless a test needs another time: older than any minimum age."""
START_SECONDS = 20

Fault = Callable[[str, str, Mapping[str, str]], "tuple[int, dict[str, str], bytes] | None"]
"""Method, path and headers → the response to send instead of the registry's."""


class TagRegistry:
    """A registry at one address of 127.0.0.1, in the engine's network namespace and in the tests'."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.fault: Fault = lambda method, path, headers: None
        self._folder = folder

    def image(self, tag: str) -> str:
        """Full name of an image in this registry."""
        return f"{self.name}/{tag}"

    def count(self, method: str, part: str = "/v2/") -> int:
        """Requests of a method whose path contains `part`."""
        return sum(one == method and part in path for one, path, _ in self.requests)

    def push(
        self,
        tag: str,
        *,
        command: Sequence[str] = ("sleep", "3600"),
        version: str = "",
        created: str = OLD,
        labels: Mapping[str, str] | None = None,
        index: bool = False,
        **config: Any,
    ) -> str:
        """Push an image and return its digest; `index` wraps it in a list of platforms. `config`: its settings."""
        repository, _, name = tag.partition(":")
        layer, packed = _layer()
        labels = {**(labels or {}), **({"org.opencontainers.image.version": version} if version else {})}
        settings = {"Cmd": list(command), "Labels": labels, "Env": ["PATH=/bin:/usr/bin"], **config}
        document = {
            "architecture": "amd64",
            "os": "linux",
            "created": created,
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            "history": [{"created_by": "test"}],
        }
        described = json.dumps(document).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _part("application/vnd.oci.image.config.v1+json", described),
            "layers": [_part("application/vnd.oci.image.layer.v1.tar+gzip", packed)],
        }
        with httpx.Client(base_url=f"http://{self.name}/v2/{repository}", trust_env=False) as client:
            for blob in (described, packed):
                if client.head(f"/blobs/{_digest(blob)}").status_code != 200:
                    place = client.post("/blobs/uploads/").headers["location"]
                    url = httpx.URL(place).copy_merge_params({"digest": _digest(blob)})
                    client.put(url, content=blob).raise_for_status()
            body = json.dumps(manifest).encode()
            if index:
                client.put(
                    f"/manifests/{_digest(body)}", content=body, headers={"Content-Type": MANIFEST}
                ).raise_for_status()
                platform = {"os": "linux", "architecture": "amd64"}
                entries = [{**_part(MANIFEST, body), "platform": platform}]
                notes = {"made": str(time.time_ns())}
                whole = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries, "annotations": notes}
                body = json.dumps(whole).encode()
            kind = INDEX if index else MANIFEST
            client.put(f"/manifests/{name}", content=body, headers={"Content-Type": kind}).raise_for_status()
        self.requests.clear()
        return _digest(body)

    def forward(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one request: with the fault of the test, or as the registry does."""
        headers = {name.lower(): ", ".join(handler.headers.get_all(name, ())) for name in handler.headers}
        self.requests.append((handler.command, handler.path, headers))
        content = handler.rfile.read(int(headers.get("content-length") or 0))
        if answer := self.fault(handler.command, handler.path, headers):
            status, extra, body = answer
        else:
            connection = _UnixConnection(str(self._folder / "registry.sock"))
            passed = {name: value for name, value in headers.items() if name not in ("connection", "authorization")}
            connection.request(handler.command, handler.path, body=content, headers=passed)
            response = connection.getresponse()
            status, body = response.status, response.read()
            skipped = ("transfer-encoding", "connection", "content-length")
            extra = {name: value for name, value in response.getheaders() if name.lower() not in skipped}
            if handler.command == "HEAD":
                extra["Content-Length"] = response.getheader("content-length") or "0"
            connection.close()
        handler.send_response(status)
        for name, value in extra.items():
            handler.send_header(name, value)
        if "Content-Length" not in extra:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("registry")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, registry: TagRegistry) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                registry.forward(self)

            def __getattr__(self, name: str) -> Callable[[], None]:
                if name.startswith("do_"):
                    return self.handle_any
                raise AttributeError(name)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        super().__init__(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


@contextmanager
def tag_registry(engine: RealEngine) -> Iterator[TagRegistry]:
    """Start a registry for a private engine.

    Raises:
        UnavailableError: `docker-registry` is not installed.
    """
    if not shutil.which(PROGRAM):
        raise UnavailableError(f"needs `{PROGRAM}` on PATH (Debian, Ubuntu: `apt install docker-registry`)")
    folder = Path(tempfile.mkdtemp(prefix="anvyl-registry-", dir="/tmp"))
    (folder / "config.yml").write_text(CONFIG % {"folder": folder}, encoding="utf-8")
    process = subprocess.Popen(
        [PROGRAM, "serve", str(folder / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    here = socket.create_server(("127.0.0.1", 0))
    port = here.getsockname()[1]
    with ThreadPoolExecutor(1) as thread:  # its thread stays in the engine's namespace
        there = thread.submit(_listen_inside, engine.process, port).result()
    registry = TagRegistry(f"127.0.0.1:{port}", folder)
    servers = [_Server(listener, registry) for listener in (here, there)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (folder / "registry.sock").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError(f"{PROGRAM} does not start here")
            time.sleep(0.02)  # there is no event for the socket
        for one in threads:
            one.start()
        yield registry
    finally:
        for server in servers:
            if threads[0].is_alive():
                server.shutdown()
            server.server_close()
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _listen_inside(process: int, port: int) -> socket.socket:
    """Listen in the network namespace of a process; the socket stays there."""
    enter_namespace(process)
    return socket.create_server(("127.0.0.1", port))


@cache
def _layer() -> tuple[bytes, bytes]:
    """The layer of every image: a busybox; as it is and compressed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(static_busybox(), "bin/busybox")
        for name in ("sh", "sleep", "echo", "cat", "test", "touch", "false", "true", "httpd"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return packed.getvalue(), gzip.compress(packed.getvalue(), 1, mtime=0)


def _part(kind: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(blob), "digest": _digest(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"
