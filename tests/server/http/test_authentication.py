"""Authentication on every route; only `/health` and `/pair` are served without a token."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from mcp.server.lowlevel.server import Server as McpServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from anvyl_mcp.core.errors import AnvylError, Denied, Unreachable
from anvyl_mcp.server.auth import caller_process, socket_owner
from anvyl_mcp.server.auth.callers import LOCAL, Caller, caller_of, implied_scopes
from anvyl_mcp.server.auth.certificate import host_identity
from anvyl_mcp.server.auth.invite_store import InviteStore
from anvyl_mcp.server.auth.limits import FailedAttempts
from anvyl_mcp.server.auth.local_trust import LocalToken, LoopbackTrust
from anvyl_mcp.server.auth.socket_owner import Address, PeerSocket, find
from anvyl_mcp.server.auth.tokens import Tokens
from anvyl_mcp.server.http.authentication import Authentication
from anvyl_mcp.server.http.connection_slots import ConnectionSlot, ConnectionSlots
from anvyl_mcp.server.http.connections import HttpConnection
from anvyl_mcp.server.http.origin_check import OriginCheck, error_response, own_names
from tests.support.hosts.nodes import PYTHON

pytestmark = pytest.mark.alone

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who calls")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes other users and makes namespaces")
NOBODY = 65534
REMOTE = "192.0.2.9"
ROUTES = {
    "/health": ["GET"],
    "/pair": ["POST", "DELETE"],
    "/network": ["POST"],
    "/metrics": ["GET"],
    "/mcp": ["GET", "POST", "DELETE"],
    "/agent/info": ["GET"],
    "/agent/process": ["POST"],
    "/agent/process/stream": ["POST"],
    "/agent/approvals/1": ["POST"],
    "/agent/hosts": ["GET", "POST"],
    "/agent/hosts/nas": ["DELETE"],
    "/agent/remote-query": ["POST"],
    "/agent/broadcast": ["POST"],
    "/deep/er/still": ["GET"],
}
KNOCKS = [(method, path) for path, methods in ROUTES.items() for method in methods]
STRANGE = [
    ("GET", "/nothing"),
    ("GET", "/health/"),
    ("GET", "/%2fhealth"),
    ("POST", "/"),
    ("GET", "/anvyl.js/"),
    ("GET", "/web/anvyl.js"),
    ("GET", "/session"),
    ("GET", "/health/../agent/info"),
    ("GET", "/HEALTH"),
    ("GET", "/health%0a"),
    ("POST", "/health"),
    ("PUT", "/pair"),
    ("GET", "/pair"),
    ("OPTIONS", "/agent/info"),
    ("TRACE", "/agent/info"),
]
OPEN = {("GET", "/health"), ("POST", "/pair")}


class IdentityProvider:
    """Accepts one token; fails for another."""

    async def verify(self, token: str) -> Caller:
        match token:
            case "jwt.of.ann":
                return Caller("ann", implied_scopes(["operate"]), "jwt", id="jwt:ann")
            case "jwt.of.no.user":
                return Caller("nix", frozenset(), "jwt", id="jwt:nix")
            case "jwt.in.trouble":
                raise Unreachable("the keys cannot be had", hint="wait")
        raise Denied("the token is damaged", hint="get a new one")


@dataclass
class Host:
    """A stub application behind the real middleware."""

    folder: Path
    seconds: float = 0
    reached: list[Caller] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = Tokens(self.folder)
        self.invites = InviteStore(self.folder, self.tokens)
        self.local = LocalToken(self.folder / "local.token")
        self.local.make()
        self.failed_attempts = FailedAttempts(clock=lambda: self.seconds)
        self.app = Starlette(
            routes=[
                Route("/pair", self._pair, methods=["POST"]),
                *(Route(path, self._tell, methods=methods) for path, methods in ROUTES.items() if path != "/deep"),
                Mount("/deep", routes=[Route("/er/still", self._tell)]),
            ],
            middleware=[
                Middleware(OriginCheck, names=["nas", "nas.lan"]),
                Middleware(
                    Authentication,
                    tokens=self.tokens,
                    loopback=LoopbackTrust(),
                    local=self.local,
                    verifier=IdentityProvider(),
                    failed_attempts=self.failed_attempts,
                ),
            ],
        )

    def token(self, *scopes: str, name: str = "laptop") -> str:
        return self.tokens.create(name, scopes or ["read"], rename=True)[1]

    async def _tell(self, request: Request) -> Response:
        caller = caller_of(request)
        self.reached.append(caller)
        return JSONResponse({"name": caller.name, "how": caller.how, "scopes": sorted(caller.scopes)})

    async def _pair(self, request: Request) -> Response:
        self.reached.append(caller_of(request))
        body = await request.json()
        try:
            return JSONResponse({"token": self.invites.redeem(body["secret"], "laptop")[1]}, 201)
        except AnvylError as error:
            return error_response(error, 403)

    async def knock(
        self,
        method: str = "GET",
        path: str = "/agent/info",
        *,
        token: str = "",
        address: str = REMOTE,
        base: str = "https://nas:4200",
        headers: Mapping[Any, Any] | None = None,
        body: object = None,
    ) -> httpx.Response:
        sent: dict[Any, Any] = {
            "content-type": "application/json",
            **({"authorization": f"Bearer {token}"} if token else {}),
        }
        transport = httpx.ASGITransport(self.app, client=(address, 50000))
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            return await client.request(method, path, headers=sent | dict(headers or {}), content=json.dumps(body))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "trust")


def error_of(answer: httpx.Response) -> dict[str, str]:
    assert list(answer.json()) == ["error"] and set(answer.json()["error"]) == {"code", "message", "hint"}, answer.text
    error: dict[str, str] = answer.json()["error"]
    return error


@pytest.mark.parametrize(("method", "path"), KNOCKS + STRANGE)
async def test_only_health_and_pairing_are_served_without_a_token(host: Host, method: str, path: str) -> None:
    for base, address in (("https://nas:4200", REMOTE), ("http://localhost:4200", "127.0.0.1")):
        answer = await host.knock(method, path, base=base, address=address, body={"secret": ""})
        if (method, path) in OPEN:
            assert answer.status_code == (200 if path == "/health" else 403)
            assert host.reached[-1].scopes == frozenset()
        else:
            assert answer.status_code == 401, (base, answer.text)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert error_of(answer)["code"] == "denied" and error_of(answer)["hint"]
    assert len(host.reached) == (2 if (method, path) in OPEN else 0)


@pytest.mark.parametrize(("method", "path"), KNOCKS)
@pytest.mark.parametrize("scope", ["read", "operate", "exec"])
async def test_a_token_reaches_every_route_with_its_own_scopes(host: Host, method: str, path: str, scope: str) -> None:
    answer = await host.knock(method, path, token=host.token(scope), body={"secret": ""})

    assert answer.status_code in (200, 403 if path == "/pair" else 200)
    [caller] = host.reached
    assert (caller.name, caller.how, caller.address) == ("laptop", "token", REMOTE)
    assert caller.scopes == implied_scopes([scope])


@pytest.mark.parametrize(("method", "path"), [knock for knock in KNOCKS if knock not in OPEN])
async def test_an_identity_without_scopes_reaches_no_route(host: Host, method: str, path: str) -> None:
    answer = await host.knock(method, path, token="jwt.of.no.user")

    assert answer.status_code == 403 and not host.reached
    assert "scope" in error_of(answer)["hint"]


async def test_health_works_without_a_token_and_with_head(host: Host) -> None:
    assert (await host.knock("HEAD", "/health")).status_code == 200
    assert (await host.knock("GET", "/health", token=host.token())).json()["scopes"] == ["read"]
    assert (await host.knock("GET", "/health", token="anv_x_y")).status_code == 401


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", REMOTE])
@pytest.mark.parametrize("path", ["/agent/info", "/health"])
async def test_a_wrong_token_is_refused_even_on_public_routes(host: Host, address: str, path: str) -> None:
    base = "https://nas:4200" if address == REMOTE else "http://127.0.0.1:4200"

    answer = await host.knock("GET", path, token=host.token()[:-1] + "~", address=address, base=base)

    assert answer.status_code == 401 and not host.reached
    assert "revoked or mistyped" in error_of(answer)["message"]
    assert "anvyl-mcp invite" in error_of(answer)["hint"]


async def test_a_revoked_or_expired_token_gets_the_reason_and_is_not_counted_as_a_guess(host: Host) -> None:
    revoked = host.token(name="gone")
    host.tokens.revoke("gone")
    past = Tokens(host.folder, clock=lambda: datetime.now(UTC) - timedelta(days=3))
    _, expired = past.create("old", ["read"], datetime.now(UTC) - timedelta(days=1))

    for _ in range(15):
        assert "`gone` was revoked" in error_of(await host.knock(token=revoked))["message"]
        assert "`old` expired" in error_of(await host.knock(token=expired))["message"]


async def test_a_revoked_token_is_refused_at_the_next_request(host: Host) -> None:
    token = host.token()
    assert (await host.knock(token=token)).status_code == 200

    Tokens(host.folder).revoke("laptop")

    assert (await host.knock(token=token)).status_code == 401


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer  ", "Basic YTpi", "Digest x", "bearer\tx", "Token anv_a_b", "Bearer ä", "Bearer a b"],
)
async def test_a_malformed_authorization_header_is_refused(host: Host, header: str) -> None:
    answer = await host.knock(headers=raw("authorization", header))

    assert answer.status_code == 401 and not host.reached


async def test_two_authorization_headers_are_refused(host: Host) -> None:
    good = f"Bearer {host.token()}"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(host.app, client=(REMOTE, 1))) as client:
        answer = await client.get("https://nas/agent/info", headers=[("authorization", good), ("authorization", good)])

    assert answer.status_code == 401


@pytest.mark.parametrize("address", [REMOTE, "10.0.0.1", "::ffff:192.0.2.9", "fe80::1%eth0", "", "localhost.evil"])
async def test_plain_http_is_for_this_machine_only_even_with_a_token(host: Host, address: str) -> None:
    for token in ("", host.token("exec"), LocalToken.read(host.local.file)):
        answer = await host.knock(path="/health", token=token, address=address, base="http://127.0.0.1:4200")
        assert answer.status_code == 403 and not host.reached
        assert "https" in error_of(answer)["hint"]


async def test_the_local_token_works_on_this_machine_only(host: Host) -> None:
    token = LocalToken.read(host.local.file)

    near = await host.knock(token=token, address="127.0.0.1", base="http://localhost:4200")
    far = await host.knock(token=token)

    assert near.json() == {"name": "local", "how": "loopback", "scopes": ["exec", "operate", "read"]}
    assert far.status_code == 401


async def test_proxy_headers_have_no_effect(host: Host) -> None:
    headers = {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "https",
        "x-real-ip": "127.0.0.1",
        "forwarded": "for=127.0.0.1;proto=https;host=localhost",
        "x-forwarded-host": "localhost",
    }
    assert (await host.knock(headers=headers)).status_code == 401
    assert (await host.knock(headers=headers, base="http://localhost:4200")).status_code == 403


@pytest.mark.parametrize(
    "name", ["nas:4200", "NAS.lan", "nas.lan.:4200", "192.0.2.1:4200", "[2001:db8::1]:4200", "localhost"]
)
async def test_pairing_over_tls_answers_to_addresses_and_own_names(host: Host, name: str) -> None:
    answer = await host.knock("POST", "/pair", headers={"host": name}, body={"secret": ""})

    assert answer.status_code == 403 and host.reached


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:4200", "nas.evil.example", "nas:x", "", "192.0.2.1.evil"]
)
async def test_a_token_allows_any_host_name_over_tls_only(host: Host, name: str) -> None:
    assert (await host.knock("POST", "/pair", headers={"host": name}, body={"secret": ""})).status_code == 421
    assert (await host.knock("GET", "/health", headers={"host": name})).status_code == 421
    assert (await host.knock(headers={"host": name})).status_code == 401
    assert not host.reached

    token = host.token()
    assert (await host.knock(token=token, headers={"host": name})).status_code == 200
    near = await host.knock(token=token, headers={"host": name}, address="127.0.0.1", base="http://localhost")
    assert near.status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://nas:4200"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_foreign_web_pages_are_refused_even_with_a_token(host: Host, headers: dict[str, str]) -> None:
    for method, path in KNOCKS:
        assert (await host.knock(method, path, token=host.token(), headers=headers)).status_code == 403
    assert not host.reached


async def test_our_own_pages_and_json_bodies_pass(host: Host) -> None:
    token = host.token()
    assert (await host.knock(token=token, headers={"origin": "https://nas:4200"})).status_code == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = await host.knock("POST", "/agent/process", token=token, headers={"content-type": kind})
        assert answer.status_code == 415
    for length in ("²", "-1", "1e3", "9" * 5000, "1, 1"):
        answer = await host.knock("POST", "/agent/process", token=token, headers=raw("content-length", length))
        assert answer.status_code == 413


def raw(name: str, value: str) -> Any:
    """A raw header: httpx accepts ASCII text only."""
    return {name.encode(): value.encode("latin-1")}


async def test_guessing_is_slowed_down_and_valid_tokens_are_not(host: Host) -> None:
    token, other = host.token(), "198.51.100.1"
    statuses = [(await host.knock(token=f"anv_x_{number}")).status_code for number in range(12)]
    assert statuses == [401] * 10 + [429] * 2

    refused = await host.knock(token="anv_x_y")
    assert int(refused.headers["retry-after"]) == 60 and "wait 60 s" in error_of(refused)["hint"]
    assert (await host.knock("POST", "/pair", body={"secret": ""})).status_code == 429
    assert (await host.knock(token=token)).status_code == 200
    assert (await host.knock()).status_code == 401
    assert (await host.knock(token="anv_x_y", address=other)).status_code == 401
    host.seconds += 60
    assert (await host.knock(token="anv_x_y")).status_code == 401


async def test_wrong_pairing_codes_count_as_guesses_and_a_right_one_does_not(host: Host) -> None:
    right = host.invites.create(["read"], 60)
    for _ in range(9):
        assert (await host.knock("POST", "/pair", body={"secret": "A" * 22})).status_code == 403
    secret = urlsafe_b64encode(right).rstrip(b"=").decode()
    joined = await host.knock("POST", "/pair", body={"secret": secret})
    assert (await host.knock(token=joined.json()["token"])).status_code == 200

    assert (await host.knock("POST", "/pair", body={"secret": "A" * 22})).status_code == 403
    assert (await host.knock("POST", "/pair", body={"secret": "A" * 22})).status_code == 429


async def test_guessing_on_loopback_does_not_lock_out_a_token(host: Host) -> None:
    here = {"address": "127.0.0.1", "base": "http://127.0.0.1:4200"}
    for _ in range(12):
        last = await host.knock(token="anv_local_guess", **here)  # type: ignore[arg-type]  # only texts are in it
    assert last.status_code == 429

    assert (await host.knock(token=host.token(), address="127.0.0.1", base="http://127.0.0.1:4200")).status_code == 200


@pytest.mark.parametrize("damage", ["", "{", '{"version": 1, "tokens": {"a": {}}}', "\0" * 100])
async def test_a_damaged_token_file_refuses_every_token_and_is_named_to_local_callers_only(
    host: Host, damage: str
) -> None:
    token = host.token("exec")
    host.tokens.path.write_text(damage, encoding="utf-8")

    far = await host.knock(token=token)
    near = await host.knock(token=token, address="127.0.0.1", base="http://127.0.0.1:4200")

    assert (far.status_code, near.status_code) == (503, 503) and not host.reached
    assert str(host.tokens.path) in error_of(near)["message"]
    assert str(host.folder) not in far.text and "all are refused" in error_of(far)["message"]
    assert (await host.knock()).status_code == 401
    assert (await host.knock("GET", "/health")).status_code == 200
    assert host.tokens.path.read_text(encoding="utf-8") == damage


async def test_tokens_of_a_configured_identity_provider_are_accepted(host: Host) -> None:
    good = await host.knock(token="jwt.of.ann")
    trouble = await host.knock(token="jwt.in.trouble")
    bad = await host.knock(token="jwt.of.eve")

    assert good.json() == {"name": "ann", "how": "jwt", "scopes": ["operate", "read"]}
    assert host.reached[0].address == REMOTE
    assert (trouble.status_code, bad.status_code) == (503, 401)


async def test_other_asgi_events_are_not_passed_on(host: Host) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await host.app({"type": "websocket", "path": "/mcp", "headers": [], "scheme": "ws"}, receive, send)

    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_an_unauthenticated_caller_has_no_scopes() -> None:
    request = Request({"type": "http", "headers": [], "method": "GET", "path": "/"})

    assert caller_of(request).scopes == frozenset()
    assert caller_of(None) is LOCAL


def test_a_missing_scope_is_reported_with_the_command_that_grants_it() -> None:
    caller = Caller("nas", implied_scopes(["read"]), "token")
    caller.require("read", "`list_containers`")
    with pytest.raises(Denied, match="`run` needs the scope `exec`; `nas` has read") as raised:
        caller.require("exec", "`run`")

    assert "anvyl-mcp invite --scope read,operate,exec" in raised.value.hint


def test_a_host_knows_its_own_names() -> None:
    assert {"nas", "nas.local", "nas.lan", socket.gethostname().lower()} <= own_names("NAS")


class Server(uvicorn.Server):
    """Sets an event when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class Connection(HttpConnection):
    """A connection with its own slot."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, slot=ConnectionSlot(ConnectionSlots(1), ""), **kwargs)


@contextmanager
def served(host: Host, *, address: str = "127.0.0.1", tls: bool = False) -> Iterator[str]:
    """Serve the application on a real socket; yields its URL."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as opened:
        config = uvicorn.Config(
            host.app, log_config=None, lifespan="off", proxy_headers=False, http=Connection, ws="none"
        )
        config.load()
        if tls:
            config.ssl = host_identity(host.folder).tls()
        server = Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            assert server.ready.wait(20)
            shown = f"[{address}]" if ":" in address else address
            yield f"{'https' if tls else 'http'}://{shown}:{opened.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


CLIENT = """
import encodings.idna, http.client, json, os, socket, sys, urllib.parse
url, uid, headers = urllib.parse.urlsplit(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
own = ("", int(sys.argv[4])) if sys.argv[4] != "0" else None
if uid != os.geteuid():
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
client = http.client.HTTPConnection(url.hostname, url.port, timeout=20, source_address=own)
client.request("GET", url.path, headers=headers)
answer = client.getresponse()
print(json.dumps({"status": answer.status, "body": json.loads(answer.read())}))
"""


def asked(
    url: str, *wrapped: str, uid: int | None = None, token: str = "", port: int = 0
) -> tuple[int, dict[str, Any]]:
    """Return the answer to a request by another process, from `port` if given."""
    headers = json.dumps({"authorization": f"Bearer {token}"} if token else {})
    user = str(os.geteuid() if uid is None else uid)
    done = subprocess.run(
        [*wrapped, PYTHON, "-c", CLIENT, url, user, headers, str(port)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return answer["status"], answer["body"]


@linux
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_on_loopback_the_servers_own_user_needs_no_token(host: Host, address: str) -> None:
    with served(host, address=address) as url:
        status, body = asked(f"{url}/agent/info")

        assert (status, body["how"], body["scopes"]) == (200, "loopback", ["operate", "read"])
        assert host.reached[-1].id == f"uid:{os.geteuid()}"
        with httpx.Client(base_url=url, headers={"x-forwarded-for": REMOTE, "x-forwarded-proto": "https"}) as client:
            # A proxy on this machine calls for an unknown user.
            assert [client.get("/agent/info").status_code for _ in range(3)] == [401] * 3
        assert asked(f"{url}/agent/info", token="anv_not_this")[0] == 401


@linux
def test_the_caller_of_an_open_connection_is_identified_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[Address] = []

    def noted(peer: Address, own: Address) -> PeerSocket | None:
        asked_for.append(peer)
        return find(peer, own)

    monkeypatch.setattr(socket_owner, "find", noted)
    with served(host) as url:
        for connections in (1, 2):
            with httpx.Client(base_url=url) as client:
                assert [client.get("/agent/info").status_code for _ in range(5)] == [200] * 5
            assert len(asked_for) == connections


@linux
@as_root
def test_trust_in_a_connection_is_not_inherited_when_its_port_is_reused(host: Host) -> None:
    with served(host) as url:
        with httpx.Client(base_url=url) as client:
            stream = client.get("/agent/info").extensions["network_stream"]
            port = stream.get_extra_info("client_addr")[1]
            assert client.get("/agent/info").status_code == 200
            # Closed with a reset, the port is free at once.
            stream.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        assert asked(f"{url}/agent/info", uid=NOBODY, port=port)[0] == 401
        assert asked(f"{url}/agent/info")[0] == 200


@linux
@as_root
def test_on_loopback_another_user_needs_a_token(host: Host) -> None:
    with served(host) as url:
        status, body = asked(f"{url}/agent/info", uid=NOBODY)
        assert status == 401
        assert "`nobody` may not use this host without a token" in body["error"]["message"]
        assert "anvyl-mcp token create" in body["error"]["hint"]
        status, body = asked(f"{url}/health", uid=NOBODY)
        assert (status, body["scopes"]) == (200, [])

        status, body = asked(f"{url}/agent/info", uid=NOBODY, token=host.token("read"))
        assert (status, body["scopes"]) == (200, ["read"])


@linux
@as_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_on_loopback_root_in_another_process_namespace_needs_a_token(host: Host) -> None:
    with served(host) as url:
        status, body = asked(f"{url}/agent/info", "unshare", "--pid", "--fork")
        assert status == 401 and "container" in body["error"]["message"]

        token = LocalToken.read(host.local.file)
        assert asked(f"{url}/agent/info", "unshare", "--pid", "--fork", token=token)[0] == 200
        assert asked(f"{url}/agent/info")[0] == 200


FIRST = """
import ctypes, sys, threading, time
def rest():
    print("ready", flush=True)
    time.sleep(1000)
threading.Thread(target=rest).start()
ctypes.CDLL(None).pthread_exit(None)
"""
"""A process whose second thread is the only one still running."""


@linux
@as_root
@pytest.mark.skipif(not shutil.which("unshare") or not shutil.which("nsenter"), reason="needs unshare and nsenter")
def test_a_stopping_container_does_not_affect_other_callers(host: Host) -> None:
    """PID 1 of its namespace stays, without memory, until all other processes were reaped."""
    command = ["unshare", "--pid", "--fork", "--kill-child", PYTHON, "-c", FIRST]
    with served(host) as url, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout and outer.stdout.readline() == "ready\n"
        [first] = psutil.Process(outer.pid).children()
        with subprocess.Popen(["nsenter", f"--target={first.pid}", "--pid", "--", "sleep", "1000"]) as entered:
            try:
                while not (others := psutil.Process(entered.pid).children()):
                    assert entered.poll() is None
                assert not caller_process.has_ended(str(first.pid))
                # It does not reap its child now.
                entered.send_signal(signal.SIGSTOP)
                while psutil.Process(entered.pid).status() != psutil.STATUS_STOPPED:
                    assert entered.poll() is None
                os.kill(first.pid, signal.SIGKILL)
                while others[0].status() != psutil.STATUS_ZOMBIE:
                    assert outer.poll() is None
                left, ended = first.num_threads(), caller_process.has_ended(str(first.pid))
                status, _ = asked(f"{url}/agent/info")
            finally:
                entered.kill()
                outer.kill()

    assert (left, ended, status) == (2, True, 200)


@linux
def test_over_tls_even_the_servers_own_user_needs_a_token(host: Host) -> None:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with served(host, tls=True) as url, httpx.Client(base_url=url, verify=trusting) as client:
        assert client.get("/agent/info").status_code == 401
        assert client.get("/health").json() == {"name": "nobody", "how": "unknown", "scopes": []}
        answer = client.get("/agent/info", headers={"authorization": f"Bearer {host.token('operate')}"})
        assert answer.json()["scopes"] == ["operate", "read"]


async def test_an_older_clients_session_belongs_to_its_caller(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "trust")
    mine, other = (tokens.create(name, ["read"])[1] for name in ("mine", "other"))
    mcp: McpServer[Any] = McpServer("nas")
    inner = mcp.streamable_http_app(
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False), json_response=True
    )
    guarded = OriginCheck(Authentication(inner, tokens=tokens, loopback=LoopbackTrust()), names=["nas"])

    async with (
        mcp.session_manager.run(),
        httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="https://nas") as client,
    ):

        async def send(token: str, message: dict[str, Any], session: str = "") -> httpx.Response:
            headers = {"authorization": f"Bearer {token}", "accept": "application/json, text/event-stream"}
            extra = {"mcp-session-id": session} if session else {}
            return await client.post("/mcp", json={"jsonrpc": "2.0", **message}, headers=headers | extra)

        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        opened = await send(mine, {"id": 1, "method": "initialize", "params": hello})
        session = opened.headers["mcp-session-id"]

        assert (await send(mine, {"id": 2, "method": "ping"}, session)).status_code == 200
        assert (await send(other, {"id": 3, "method": "ping"}, session)).status_code == 404
