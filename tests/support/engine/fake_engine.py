"""A small fake Docker engine with state, any API version and faults on demand."""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

CREATED = 1_764_000_000
STAMP = "2026-11-23T10:00:{:02}.000000000Z"
NETWORK = {"bridge": {"IPAddress": "172.17.0.2", "NetworkID": "n1"}}


@dataclass
class FakeContainer:
    """One container of the fake; `over` overrides its inspect response, `listed` its list entry."""

    name: str
    id: str
    state: str = "running"
    tty: bool = False
    log: bytes = b""
    over: dict[str, Any] = field(default_factory=dict)
    listed: dict[str, Any] = field(default_factory=dict)
    changes: int = 0


@dataclass
class Fault:
    """Fault for matching requests, see `FakeEngine.fault`."""

    match: str
    do: str
    times: int
    body: bytes | None = None


class FakeEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """`with FakeEngine(path) as fake`: use `fake.url`, then look at `fake.requests` and `fake.containers`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path, *, version: str = "1.41", oldest: str = "1.24") -> None:
        super().__init__(str(path), Handler)
        self.path, self.url = path, f"unix://{path}"
        self.version, self.oldest = version, oldest
        self.containers: dict[str, FakeContainer] = {}
        self.images: Any = [
            {"Id": "sha256:" + "a" * 64, "RepoTags": ["busybox:latest"], "Size": 10, "Created": CREATED}
        ]
        self.answers: dict[str, Any] = {}
        """Responses by path that replace the default ones."""
        self.streams: dict[str, bytes] = {}
        """Chunked responses by path, like those of long-running requests."""
        self.redirects: dict[str, str] = {}
        """Redirect targets by path."""
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.released = threading.Event()
        self.arrived = threading.Semaphore(0)
        self._numbers = count(1)
        self._open: list[socket.socket] = []

    def __enter__(self) -> FakeEngine:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self.shutdown()
        self._thread.join(5)
        self.server_close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.path.unlink(missing_ok=True)

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted, address = super().get_request()
        self._open.append(accepted)
        return accepted, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnected."""

    def add(self, name: str, **options: Any) -> FakeContainer:
        """Add a container."""
        box = FakeContainer(name, f"{next(self._numbers):064x}", **options)
        self.containers[box.id] = box
        return box

    def fault(self, match: str, do: str, times: int = 1 << 30, body: bytes | None = None) -> None:
        """Make requests that match the pattern, like `GET /containers/json`, fail.

        `404`…: error status, with `body` if given. `hang`: no response until `released`. `garbage`: not JSON.
        `shape`: JSON of the wrong type. `cut`: half of a response. `slow`: byte by byte. `close`: no response.
        `lost`: executed, but no response. `late`: executed after `released`. `after:0.1`: executed, response delayed
        by that many seconds.
        """
        self.faults.append(Fault(match, do, times, body))

    def find(self, name: str) -> FakeContainer | None:
        """Find a container by name, id or id prefix."""
        return next((box for box in self.containers.values() if box.name == name or box.id.startswith(name)), None)


class Handler(BaseHTTPRequestHandler):
    """One connection to the fake."""

    protocol_version = "HTTP/1.1"
    server: FakeEngine

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log."""

    def address_string(self) -> str:
        return "unix"

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        match = re.fullmatch(r"(?:/v([\d.]+))?(/.*)", address.path)
        assert match is not None
        version, path = match[1] or "", match[2]
        asked = f"{self.command} {path}"
        self.server.requests.append(asked)
        self.server.arrived.release()
        # Docker's router redirects paths that are not clean, for every method.
        clean = self.server.redirects.get(path, posixpath.normpath(unquote(path)))
        if clean != unquote(path):
            self._send(301, b"", headers={"Location": f"/v{version}{clean}"})
            return
        fault, instead = self._fault(asked)
        if version and (problem := self._wrong_version(version)):
            self._send(400, {"message": problem})
            return
        if fault in ("hang", "close"):
            if fault == "hang":
                self.server.released.wait()
            self.close_connection = True
            return
        if fault and fault.isdigit():
            self._send(int(fault), {"message": f"injected for {path}"} if instead is None else instead)
            return
        if fault == "late":
            self.server.released.wait()
        if path in self.server.streams:
            self._stream(self.server.streams[path])
            return
        status, answer = self._answer(path, parse_qs(address.query), body)
        if fault.startswith("after:"):
            time.sleep(float(fault.removeprefix("after:")))
        if fault == "lost":
            self.close_connection = True
        elif fault == "garbage":
            self._send(status, b"<html>!!")
        elif fault == "shape":
            self._send(status, ["what", 7])
        else:
            self._send(status, answer, how=fault)

    def _fault(self, asked: str) -> tuple[str, bytes | None]:
        for one in self.server.faults:
            if one.times and re.fullmatch(one.match, asked):
                one.times -= 1
                return one.do, one.body
        return "", None

    def _wrong_version(self, version: str) -> str:
        if _number(version) > _number(self.server.version):
            return f"client version {version} is too new. Maximum supported API version is {self.server.version}"
        if _number(version) < _number(self.server.oldest):
            return f"client version {version} is too old. Minimum supported API version is {self.server.oldest}"
        return ""

    def _answer(self, path: str, query: Mapping[str, list[str]], body: bytes) -> tuple[int, Any]:
        server = self.server
        if path in server.answers:
            return 200, server.answers[path]
        fixed: dict[str, Callable[[], Any]] = {
            "/_ping": lambda: b"OK",
            "/version": lambda: {"Version": "20.10.24", "ApiVersion": server.version, "MinAPIVersion": server.oldest},
            "/info": lambda: {
                "Name": "fake",
                "Containers": len(server.containers),
                "ContainersRunning": 1,
                "Images": 1,
            },
            "/images/json": lambda: server.images,
            "/containers/json": lambda: [_listed(box) for box in server.containers.values() if _shown(box, query)],
        }
        if path in fixed:
            return 200, fixed[path]()
        if path == "/containers/create":
            made = server.add(query.get("name", ["unnamed"])[0], state="created")
            return 201, {"Id": made.id, "Warnings": []}
        if match := re.fullmatch(r"/containers/([^/]+)(?:/(\w+))?", path):
            return self._container(match[1], match[2] or "")
        if path.startswith("/images/"):
            return 200, {"Id": "sha256:" + "a" * 64}
        return 404, {"message": "page not found"}

    def _container(self, name: str, verb: str) -> tuple[int, Any]:
        box = self.server.find(name)
        if box is None:
            return 404, {"message": f"No such container: {name}"}
        if self.command == "DELETE":
            del self.server.containers[box.id]
            return 204, b""
        if verb == "json":
            return 200, _inspected(box, self.server.version)
        if verb == "logs":
            return 200, box.log
        box.state = {"start": "running", "restart": "running", "stop": "exited"}[verb]
        box.changes += 1
        return 204, b""

    def _stream(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))

    def _send(self, status: int, answer: Any, how: str = "", headers: Mapping[str, str] = MappingProxyType({})) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if how == "cut":
            data, self.close_connection = data[: len(data) // 2], True
        if how == "slow":
            for number in range(len(data)):
                self.wfile.write(data[number : number + 1])
                self.wfile.flush()
                if self.server.released.wait(0.2):
                    return
        else:
            self.wfile.write(data)


def frames(*messages: tuple[int, str]) -> bytes:
    """Multiplexed log from (stream, text) messages, with timestamps."""
    parts = []
    for number, (stream, words) in enumerate(messages):
        data = f"{STAMP.format(number % 60)} {words}".encode()
        parts.append(struct.pack(">BxxxL", stream, len(data)) + data)
    return b"".join(parts)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _shown(box: FakeContainer, query: Mapping[str, list[str]]) -> bool:
    return box.state == "running" or query.get("all", ["0"])[0] in ("1", "true", "True")


def _listed(box: FakeContainer) -> dict[str, Any]:
    return {
        "Id": box.id,
        "Names": [f"/{box.name}"],
        "Image": "busybox:latest",
        "State": box.state,
        "Status": "Up 2 hours",
        "Created": CREATED,
        "Ports": [{"PrivatePort": 80, "PublicPort": 8080, "Type": "tcp", "IP": "0.0.0.0"}],
        "Labels": {},
        **box.listed,
    }


def _inspected(box: FakeContainer, version: str) -> dict[str, Any]:
    """Inspect response for an API version: since 1.52, empty fields and top-level addresses are omitted."""
    old = _number(version) < (1, 52)
    empty: dict[str, Any] = {"Cmd": None, "Env": None, "Labels": {}, "Entrypoint": None} if old else {}
    address = {"IPAddress": "172.17.0.2", "Gateway": "172.17.0.1", "Bridge": ""} if old else {}
    return {
        "Id": box.id,
        "Name": f"/{box.name}",
        "Created": time.strftime("%Y-%m-%dT%H:%M:%S.000000000Z", time.gmtime(CREATED)),
        "Config": {"Image": "busybox:latest", "Tty": box.tty, **empty},
        "State": {
            "Status": box.state,
            "Running": box.state == "running",
            "ExitCode": 0,
            "StartedAt": STAMP.format(0),
        },
        "HostConfig": {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}},
        "NetworkSettings": {"Ports": {"80/tcp": None}, "Networks": NETWORK, **address},
        "Mounts": [],
        **box.over,
    }
