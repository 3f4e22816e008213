"""Receivers of notices on loopback: they accept and refuse what ntfy, Gotify, Discord, Slack and a mail server do."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socketserver
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any

NTFY_USER, NTFY_PASSWORD, NTFY_TOKEN = "phil", "mypass1234", "tk_AgQdq7mVBoFD37zQVN29RhuMzNIz2"
GOTIFY_TOKEN = "AsWjbUSHqp7vEvm"
DISCORD_PATH = "/api/webhooks/1234567890/qzXcVb-discordsecret_12"
SLACK_PATH = "/services/T0000AAAA/B0000BBBB/slackSecretXyz12"

Answer = tuple[int, Any]


class Services:
    """What arrived, and what to answer instead of the service (`fault`)."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any]] = []
        """Service and accepted message, in order."""
        self.fault: Answer | None = None
        self.requests = 0
        self.changed = threading.Condition()
        self.url = ""

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    def accept(self, service: str, message: Any) -> None:
        """Record an accepted message."""
        with self.changed:
            self.got.append((service, message))
            self.changed.notify_all()

    def wait(self, number: int, seconds: float = 20) -> list[tuple[str, Any]]:
        """Wait until so many messages have arrived."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.got) >= number, seconds), self.got
            return list(self.got)

    def answer(self, path: str, headers: dict[str, str], body: Any) -> Answer:
        """Answer a POST as the service with this path would."""
        if path == "/":
            return self._ntfy(headers.get("authorization", ""), body)
        if path == "/message":
            return self._gotify(headers.get("x-gotify-key", ""), body)
        if path.startswith("/api/webhooks/"):
            return self._discord(path, body)
        if path.startswith("/services/"):
            return self._slack(path, body)
        if path.startswith("/hooks/"):
            return self._mattermost(path, body)
        self.accept("json", body)
        return 204, None

    def _ntfy(self, authorization: str, body: Any) -> Answer:
        if not isinstance(body, dict) or not re.fullmatch(r"[-_A-Za-z0-9]{1,64}", str(body.get("topic", ""))):
            return 400, {"code": 40024, "http": 400, "error": "invalid request: topic invalid"}
        login = base64.b64encode(f"{NTFY_USER}:{NTFY_PASSWORD}".encode()).decode()
        if body["topic"] == "closed" and authorization not in (f"Basic {login}", f"Bearer {NTFY_TOKEN}"):
            return 403, {"code": 40301, "http": 403, "error": "forbidden"}
        if not 1 <= body.get("priority", 3) <= 5 or not all(isinstance(body[one], str) for one in ("title", "message")):
            return 400, {"code": 40007, "http": 400, "error": "invalid request"}
        self.accept("ntfy", body)
        return 200, {"id": "x", "event": "message"}

    def _gotify(self, token: str, body: Any) -> Answer:
        if token != GOTIFY_TOKEN:
            text = "you need to provide a valid access token"
            return 401, {"error": "Unauthorized", "errorCode": 401, "errorDescription": text}
        if not body.get("message") or not isinstance(body.get("priority"), int):
            return 400, {"error": "Bad Request", "errorCode": 400, "errorDescription": "Field 'message' is required"}
        self.accept("gotify", body)
        return 200, {"id": 1}

    def _discord(self, path: str, body: Any) -> Answer:
        if path != DISCORD_PATH:
            return 404, {"message": "Unknown Webhook", "code": 10015}
        if not body.get("content") and not body.get("embeds"):
            return 400, {"message": "Cannot send an empty message", "code": 50006}
        if len(body["content"]) > 2000:
            return 400, {"content": ["Must be 2000 or fewer in length."]}
        self.accept("discord", body)
        return 204, None

    def _slack(self, path: str, body: Any) -> Answer:
        if path != SLACK_PATH:
            return 403, "invalid_token"
        if not body.get("text"):
            return 400, "no_text"
        self.accept("slack", body)
        return 200, "ok"

    def _mattermost(self, path: str, body: Any) -> Answer:
        if path != "/hooks/mattersecret123":
            return 404, {"id": "web.incoming_webhook.invalid.app_error", "message": "Invalid webhook"}
        self.accept("mattermost", body)
        return 200, "ok"


@contextlib.contextmanager
def running_services() -> Iterator[Services]:
    """Serve them on a free port."""
    services = Services()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            services.requests += 1
            fault = services.fault
            status, answer = fault or services.answer(self.path, headers, json.loads(content))
            self.send_response(status)
            text = answer if isinstance(answer, str) else "" if answer is None else json.dumps(answer)
            self.send_header("content-type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    services.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield services
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def running_mail_server(refusal: Mapping[str, str] = MappingProxyType({})) -> Iterator[tuple[int, list[str]]]:
    """Serve SMTP without TLS on a free port; yields the port and the mails that arrived.

    `refusal`: the answer to a command, like `{"AUTH": "535 wrong password"}`.
    """
    mails: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 mail.test ESMTP")
            while line := self.rfile.readline().decode().strip():
                word = line.split()[0].upper()
                if word in refusal:
                    self.say(refusal[word])
                    continue
                if word == "EHLO":
                    self.say("250-mail.test")
                    self.say("250 AUTH PLAIN")
                    continue
                if word == "DATA":
                    self.say("354 go on")
                    mails.append(self.read_mail())
                self.say({"QUIT": "221 bye", "AUTH": "235 welcome"}.get(word, "250 ok"))
                if word == "QUIT":
                    return

        def read_mail(self) -> str:
            lines = []
            while (line := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                lines.append(line)
            return "\n".join(lines)

        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1], mails
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
