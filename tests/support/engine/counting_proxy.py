"""A proxy in front of an engine that records every request."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import TracebackType

METHODS = (b"GET ", b"POST ", b"DELETE ", b"HEAD ", b"PUT ")
SECONDS = 20


class CountingProxy:
    """`with CountingProxy(engine.url, path) as proxy`: use `proxy.url`, then look at `proxy.requests`."""

    def __init__(self, target: str, path: Path) -> None:
        self.url = f"unix://{path}"
        self.requests: list[str] = []
        self._arrived = threading.Condition()
        self._target = target.removeprefix("unix://")
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)

    def __enter__(self) -> CountingProxy:
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(5)
        self._listener.close()
        for one in self._open:
            one.close()

    def wait_for_request(self, part: str) -> bool:
        """Wait until a request passes whose target contains `part`; returns whether one did."""
        with self._arrived:
            return self._arrived.wait_for(lambda: any(part in request for request in self.requests), SECONDS)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(self._target)
            self._open += [client, engine]
            threading.Thread(target=self._pump, args=(client, engine, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(engine, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, requests: bool) -> None:
        try:
            while data := source.recv(65536):
                if requests and data.startswith(METHODS):
                    with self._arrived:
                        self.requests.append(data.split(b" ", 2)[1].decode())
                        self._arrived.notify_all()
                sink.sendall(data)
        except OSError:
            pass
