"""A client of the registry API that reads tags, manifests and image configurations.

Callers pass only images of containers on this host, so that no caller chooses which hosts are contacted. What a
registry refers to on other hosts (token services, storage) is read over HTTPS only, and a public registry cannot refer
to a private network.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx

from anvyl_mcp import __version__
from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Busy, Denied, EngineError, NotFound, Unreachable
from anvyl_mcp.server.registries.logins import RegistryLogin, RegistryLogins
from anvyl_mcp.server.registries.references import ImageReference

CONNECT_SECONDS, READ_SECONDS = 3.0, 8.0
MAX_BODY = 4 * 1024 * 1024
"""Bytes of a manifest or a configuration, the limit that Docker has too."""
MAX_REDIRECTS = 3
AT_ONCE = 3
"""Concurrent requests to one registry."""
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ACCEPT = ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
CERTIFICATES = Path("/etc/docker/certs.d")
"""Where Docker looks for the certificates of private registries."""
REDIRECTS = (301, 302, 303, 307, 308)

RateNotice = Callable[[httpx.Response], None]


class RateLimited(Busy):
    """The registry refuses requests for a while; `response` says for how long."""

    def __init__(self, registry: str, response: httpx.Response) -> None:
        super().__init__(f"{registry} limits the number of requests", hint="try again later")
        self.response = response


class RegistryClient:
    """Reads from registries, with the host's log-ins. Use it as an async context manager, in one event loop."""

    def __init__(self, insecure: Callable[[str], bool], *, certificates: Path = CERTIFICATES) -> None:
        """`insecure` says whether the engine allows plain HTTP to a registry host."""
        self._insecure = insecure
        self._certificates = certificates
        self._logins: RegistryLogins | None = None
        self._clients: dict[tuple[str, bool], httpx.AsyncClient] = {}
        self._schemes: dict[str, str] = {}
        self._tokens: dict[tuple[str, str], str] = {}
        self._limiters: dict[str, anyio.CapacityLimiter] = {}
        self._dead: dict[str, AnvylError] = {}

    async def __aenter__(self) -> RegistryClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def digest(self, image: ImageReference, on_response: RateNotice) -> str:
        """The digest that a tag has now, by a HEAD request, which registries do not count as a pull.

        Raises:
            NotFound: the registry has no such tag, or hides it.
            RateLimited, Unreachable, Denied, EngineError: it cannot be read.
        """
        response, _ = await self._read("HEAD", image, f"manifests/{image.tag}", on_response)
        found = str(response.headers.get("docker-content-digest", ""))
        if not DIGEST.fullmatch(found):
            raise EngineError(f"{image.registry} did not send the digest of {image.repository}:{image.tag}")
        return found

    async def manifest(self, image: ImageReference, digest: str, on_response: RateNotice) -> Mapping[str, Any]:
        """A manifest or an index of manifests. Raises as `digest` does."""
        return await self._json(image, "manifests", digest, on_response)

    async def config(self, image: ImageReference, digest: str, on_response: RateNotice) -> Mapping[str, Any]:
        """The configuration of an image. Raises as `digest` does."""
        return await self._json(image, "blobs", digest, on_response)

    async def _json(self, image: ImageReference, kind: str, digest: str, on_response: RateNotice) -> Mapping[str, Any]:
        wrong = EngineError(f"{image.registry} sent something else than {digest[:19]} of {image.repository}")
        if not DIGEST.fullmatch(digest):
            raise wrong
        _, body = await self._read("GET", image, f"{kind}/{digest}", on_response)
        if f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
            raise wrong
        try:
            found = json.loads(body)
        except ValueError as error:
            raise wrong from error
        if not isinstance(found, dict):
            raise wrong
        return found

    async def _read(
        self, method: str, image: ImageReference, path: str, on_response: RateNotice
    ) -> tuple[httpx.Response, bytes]:
        """Send one request, with a token if the registry asks for one, and return its response."""
        limiter = self._limiters.setdefault(image.host, anyio.CapacityLimiter(AT_ONCE))
        async with limiter:
            if error := self._dead.get(image.host):
                raise error
            try:
                response, body = await self._with_token(method, image, f"/v2/{image.repository}/{path}")
            except Unreachable as error:
                # The other images of this registry would wait as long for the same answer.
                self._dead[image.host] = error
                raise
        on_response(response)
        if response.status_code == 200:
            return response, body
        raise _refusal(image, response)

    async def _with_token(self, method: str, image: ImageReference, path: str) -> tuple[httpx.Response, bytes]:
        key = image.host, image.repository
        headers = {"Accept": ACCEPT}
        if token := self._tokens.get(key):
            headers["Authorization"] = token
        response, body = await self._from_registry(method, image, path, headers)
        if response.status_code != 401:
            return response, body
        self._tokens[key] = await self._authorize(image, response.headers.get("www-authenticate", ""))
        return await self._from_registry(method, image, path, {**headers, "Authorization": self._tokens[key]})

    async def _from_registry(
        self, method: str, image: ImageReference, path: str, headers: Mapping[str, str]
    ) -> tuple[httpx.Response, bytes]:
        """Try HTTPS, and plain HTTP where the engine allows that too."""
        schemes = ("https", "http") if self._insecure(image.host) else ("https",)
        schemes = (self._schemes[image.host],) if image.host in self._schemes else schemes
        failure: httpx.HTTPError | None = None
        for scheme in schemes:
            try:
                found = await self._follow(method, f"{scheme}://{image.host}{path}", headers, image)
            except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError) as error:
                failure = error
                continue
            except httpx.HTTPError as error:
                failure = error
                break
            self._schemes[image.host] = scheme
            return found
        raise _unreachable(image.registry, failure) from failure

    async def _follow(
        self, method: str, url: str, headers: Mapping[str, str], image: ImageReference
    ) -> tuple[httpx.Response, bytes]:
        """Send a request and follow its redirects; the token is for the registry only."""
        for _ in range(MAX_REDIRECTS + 1):
            response, body = await self._send(method, url, headers)
            if response.status_code not in REDIRECTS:
                return response, body
            target = str(httpx.URL(url).join(response.headers.get("location", "")))
            if httpx.URL(target).host != httpx.URL(url).host:
                await self._check_foreign(target, image)
                headers = {name: value for name, value in headers.items() if name != "Authorization"}
            url = target
        raise EngineError(f"{image.registry} redirects too often")

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], data: Mapping[str, str] | None = None
    ) -> tuple[httpx.Response, bytes]:
        client = self._client(url)
        body = bytearray()
        async with client.stream(method, url, headers=dict(headers), data=data) as response:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BODY:
                    raise EngineError(f"{urlsplit(url).netloc} sent more than {text.format_size(MAX_BODY)}")
        return response, bytes(body)

    def _client(self, url: str) -> httpx.AsyncClient:
        host = urlsplit(url).netloc
        insecure = self._insecure(host)
        key = host if insecure or (self._certificates / host).is_dir() else "", insecure
        if key not in self._clients:
            self._clients[key] = httpx.AsyncClient(
                verify=self._trust(key[0], insecure),
                timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
                follow_redirects=False,
                headers={"User-Agent": f"anvyl-mcp/{__version__}"},
            )
        return self._clients[key]

    def _trust(self, host: str, insecure: bool) -> ssl.SSLContext:
        """Trust what the system trusts, plus the certificates that Docker has for this registry."""
        context = httpx.create_ssl_context(verify=not insecure)
        context.load_default_certs()
        folder = self._certificates / host
        if host and folder.is_dir():
            for authority in folder.glob("*.crt"):
                context.load_verify_locations(authority)
            for certificate in folder.glob("*.cert"):
                context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        return context

    async def _authorize(self, image: ImageReference, challenge: str) -> str:
        """The `Authorization` header that a registry asks for.

        Raises:
            Denied: its challenge is not supported, or the log-in was refused.
        """
        login = await self._login(image)
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic" and login and login.user:
            return _basic(login)
        options = dict(CHALLENGE.findall(rest))
        if scheme.lower() != "bearer" or not options.get("realm"):
            raise _login_needed(image)
        return f"Bearer {await self._token(image, options, login)}"

    async def _token(self, image: ImageReference, options: Mapping[str, str], login: RegistryLogin | None) -> str:
        realm = options["realm"]
        if urlsplit(realm).hostname != urlsplit(f"//{image.host}").hostname:
            await self._check_foreign(realm, image)
        elif urlsplit(realm).scheme != "https" and not self._insecure(image.host):
            raise Denied(f"{image.registry} asks for log-ins over plain HTTP; nothing was sent")
        wanted = {"service": options.get("service", ""), "scope": f"repository:{image.repository}:pull"}
        headers: dict[str, str] = {}
        if login and login.identity_token:
            form = {**wanted, "grant_type": "refresh_token", "client_id": "anvyl-mcp",
                    "refresh_token": login.identity_token}  # fmt: skip
            method, url, data = "POST", realm, form
        else:
            if login:
                headers["Authorization"] = _basic(login)
            method, url, data = "GET", str(httpx.URL(realm).copy_merge_params(wanted)), None
        try:
            response, body = await self._send(method, url, headers, data)
        except httpx.HTTPError as error:
            raise _unreachable(urlsplit(realm).netloc, error) from error
        if response.status_code == 429:
            raise RateLimited(image.registry, response)
        try:
            found = json.loads(body)
            token = str(found.get("token") or found["access_token"])
        except (ValueError, KeyError, AttributeError) as error:
            raise _login_needed(image) from error
        if response.status_code != 200 or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise _login_needed(image)
        return token

    async def _login(self, image: ImageReference) -> RegistryLogin | None:
        if self._logins is None:
            self._logins = await anyio.to_thread.run_sync(RegistryLogins)
        return await anyio.to_thread.run_sync(self._logins.find, image.registry)

    async def _check_foreign(self, url: str, image: ImageReference) -> None:
        """Check a URL on another host that a registry sent us to.

        Raises:
            Denied: it is not HTTPS, or leads into a private network although the registry itself is public.
        """
        parts = urlsplit(url)
        where = text.one_line(parts.hostname or "")[:80]
        if not parts.hostname or (parts.scheme != "https" and not self._insecure(parts.netloc)):
            raise Denied(f"{image.registry} refers to `{where}` without HTTPS; nothing was sent there")
        registry, target = (
            await _addresses(urlsplit(f"//{image.host}").hostname or ""),
            await _addresses(parts.hostname),
        )
        is_local = any(not one.is_global for one in registry)
        if any(one.is_link_local or not (one.is_global or is_local) for one in target):
            raise Denied(f"{image.registry} refers to `{where}`, which is in a private network; nothing was sent there")


async def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Addresses of a host name; none for an unknown one."""
    try:
        found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found]


def _basic(login: RegistryLogin) -> str:
    return f"Basic {base64.b64encode(f'{login.user}:{login.password}'.encode()).decode()}"


def _refusal(image: ImageReference, response: httpx.Response) -> AnvylError:
    match response.status_code:
        case 429:
            return RateLimited(image.registry, response)
        case 401 | 403:
            return _login_needed(image)
        case 404:
            return NotFound(f"{image.registry} has no {image.repository}:{image.tag}")
        case status:
            return EngineError(f"{image.registry} failed: HTTP {status}")


def _login_needed(image: ImageReference) -> Denied:
    return Denied(
        f"{image.registry} does not show {image.repository}:{image.tag} without a valid log-in",
        hint=f"log in on the host, as the user who runs the server: docker login {image.registry}",
    )


def _unreachable(registry: str, error: BaseException | None) -> Unreachable:
    why = "no answer" if isinstance(error, httpx.TimeoutException) else text.one_line(str(error))[:120]
    return Unreachable(f"the registry {registry} cannot be reached: {why or 'the connection broke'}")
