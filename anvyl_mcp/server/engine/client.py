"""The Docker SDK's client, extended to detect an engine that disconnected, hangs or was upgraded, and lost answers.

Object names are escaped, so that none can change the path of a request. Redirects are not followed.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import requests
import urllib3
from docker import auth
from docker.api.client import APIClient
from docker.errors import APIError, DockerException
from requests import PreparedRequest, Response

from anvyl_mcp.server.policy import object_names

READ_METHODS = ("GET", "HEAD")
OBSERVE_TIMEOUT = 2
CHUNK = 64 * 1024
REFUSAL_STATUSES = (401, 403, 404, 405, 407)
PROXY_MESSAGE = re.compile(
    r"\W*(?:4\d\d\W*)?(?:forbidden|unauthorized|not allowed|access denied|method not allowed"
    r"|request forbidden.*|blocked.*|.*\bproxy\b.*)\W*",
    re.IGNORECASE | re.DOTALL,
)
"""Messages of proxies that imitate Docker's error format; Docker's own messages always name what is forbidden."""
PODMAN_HEADER = "Libpod-API-Version"
"""Header that Podman sends with every response."""
VERSION_MISMATCH = re.compile(rb"client version [\d.]+ is too (?:new|old)", re.IGNORECASE)
IN_PATH = re.compile(r"/v[\d.]+(/.*)")
KIND_IN_PATH = re.compile(r"/(\w+?)s?/\{0\}")
KINDS_WITH_SLASHES = ("image", "distribution", "plugin")
"""Kinds of objects whose names may contain slashes."""
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
NOT_SENT = (FileNotFoundError, ConnectionRefusedError, PermissionError, BlockingIOError)
"""Errors before the connection was made: the engine cannot have received the request."""


@dataclass
class EngineHealth:
    """Connection state of an engine, shared by all its clients."""

    last_answer: float = field(default_factory=time.monotonic)
    timed_out: bool = False
    """The last request timed out."""
    disconnected: bool = False
    """A connection broke: another engine or version may answer next time."""

    is_podman: bool = False
    """It is Podman, which differs from Docker in many details."""

    def record_answer(self) -> None:
        """Note that the engine answered."""
        self.last_answer = time.monotonic()
        self.timed_out = False


class AnswerLost(requests.RequestException):
    """A change was sent but its response was lost; `observed` describes the container's current state, if known."""

    def __init__(self, request: PreparedRequest, observed: str) -> None:
        self.observed = observed
        super().__init__(observed, request=request)


class ProxyRefusal(requests.RequestException):
    """A socket proxy at the engine's `address` refused the request."""

    def __init__(self, request: PreparedRequest, address: str) -> None:
        self.address = address
        self.method = str(request.method)
        self.path = IN_PATH.sub(r"\1", request.path_url).partition("?")[0]
        super().__init__(f"{self.method} {self.path} is not allowed", request=request)


class InvalidObjectName(DockerException):
    """Not a valid name for this kind of object; no request was sent."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name = kind, name
        super().__init__(f"`{object_names.shorten(name)}` cannot be the name of a {kind}")


class Redirected(requests.RequestException):
    """The engine answered with a redirect, which is not followed."""


class EngineClient(APIClient):
    """Reads are retried once, changes never; the timeout covers the whole response, also one that trickles in."""

    def __init__(self, health: EngineHealth, *, base_url: str, **arguments: Any) -> None:
        self._health, self._address = health, base_url
        super().__init__(base_url=base_url, **arguments)

    def _url(self, pathfmt: str, *args: Any, **kwargs: Any) -> str:
        """URL of a request with object names escaped: the SDK leaves `/` in names, and the engine resolves `..`.

        Raises:
            InvalidObjectName: a name is not valid for its kind of object.
        """
        found = KIND_IN_PATH.match(pathfmt)
        kind = found[1] if found else "object"
        slashes = kind in KINDS_WITH_SLASHES
        for name in map(str, args):
            if not object_names.is_valid("image" if slashes else kind, name):
                raise InvalidObjectName(kind, name)
        path = pathfmt.format(*(quote(str(name), safe="/:" if slashes else "") for name in args))
        return f"{self.base_url}{f'/v{self._version}' if kwargs.get('versioned_api', True) else ''}{path}"

    def pull(self, *arguments: Any, **options: Any) -> Any:
        """Pull an image with the log-ins of now: `docker login` may have been run since this client was made."""
        self.reload_config()
        return super().pull(*arguments, **options)

    def container_url(self, container: str, what: str) -> str:
        """URL of a resource of one container, for requests that bypass the SDK."""
        return self._url(f"/containers/{{0}}/{what}", container)

    def service_url(self, service: str, what: str) -> str:
        """URL of a resource of one service of a Swarm."""
        return self._url(f"/services/{{0}}/{what}", service)

    def post_service(self, spec: dict[str, Any], *, image: str) -> str:
        """Create a service and return its id. `image`: log in to its registry."""
        headers = self._registry_login(image)
        found = self._result(self._send_spec(self._url("/services/create"), spec, headers), json=True)
        return str(found["ID"])

    def replace_service(
        self, service: str, version: int, spec: dict[str, Any], *, image: str = "", rollback: bool = False
    ) -> None:
        """Give a service this whole specification, or its previous one. `image`: log in to its registry."""
        headers = self._registry_login(image) if image else {}
        options = {"version": version, **({"rollback": "previous"} if rollback else {"registryAuthFrom": "spec"})}
        url = self.service_url(service, "update")
        self._raise_for_status(self._send_spec(url, spec, headers, options))

    def _send_spec(
        self, url: str, spec: dict[str, Any], headers: dict[str, str], options: dict[str, Any] | None = None
    ) -> Response:
        """Send a specification as it is: the SDK would drop what is null in it."""
        return self._post(url, json=spec, headers=headers, params=options)  # type: ignore[attr-defined,no-any-return]  # the stubs leave it out

    def _registry_login(self, image: str) -> dict[str, str]:
        """The header with this host's log-in to the registry of an image, for the nodes that pull it."""
        self.reload_config()
        registry, _ = auth.resolve_repository_name(image)
        login = auth.get_config_header(self, registry)
        return {"X-Registry-Auth": login.decode("ascii")} if login else {}

    def get_redirect_target(self, resp: Response) -> None:
        """Never follow redirects."""

    def send(self, request: PreparedRequest, **options: Any) -> Response:
        """Send a prepared request of the SDK, retry reads, and detect version changes and proxies."""
        try:
            response = self._send_once(request, options)
            again = request.method in READ_METHODS and response.status_code == 500
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            self._health.disconnected = True
            if request.method not in READ_METHODS or _never_sent(error):
                raise
            again, response = True, None
        if again:
            if response is not None:
                response.close()
            response = self._send_once(request, options)
        assert response is not None
        if response.status_code == 400 and not options.get("stream") and VERSION_MISMATCH.search(response.content):
            return self._retry_with_engine_version(request, options)
        if _is_proxy_refusal(response):
            raise ProxyRefusal(request, self._address)
        return response

    def _send_once(self, request: PreparedRequest, options: dict[str, Any]) -> Response:
        """Send a request once and note whether the engine answered.

        Raises:
            AnswerLost: the response to a change was lost, so it may have happened.
        """
        try:
            response = self._send_with_deadline(request, options)
        except requests.RequestException as error:
            if isinstance(error, requests.Timeout):
                self._health.timed_out = True
            if request.method in READ_METHODS or _never_sent(error):
                raise
            self._health.disconnected = True
            raise AnswerLost(request, self._observe_state(request)) from error
        self._health.record_answer()
        self._health.is_podman = PODMAN_HEADER in response.headers
        if response.status_code in REDIRECT_STATUSES:
            response.close()
            raise Redirected("the engine answered with a redirect", request=request)
        return response

    def _send_with_deadline(self, request: PreparedRequest, options: dict[str, Any]) -> Response:
        """Apply the timeout to the whole response of a read; `requests` applies it to each chunk."""
        seconds = options.get("timeout")
        if request.method not in READ_METHODS or options.get("stream") or not isinstance(seconds, int | float):
            return super().send(request, **options)
        deadline = time.monotonic() + seconds
        response = super().send(request, **{**options, "stream": True})
        body = bytearray()
        try:
            while piece := response.raw.read1(CHUNK):
                body += piece
                if time.monotonic() > deadline:
                    raise requests.ReadTimeout("the response took too long", request=request)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise requests.ReadTimeout(error, request=request) from error
        except urllib3.exceptions.HTTPError as error:
            raise requests.exceptions.ChunkedEncodingError(error, request=request) from error
        finally:
            response.close()
        response._content = bytes(body)
        return response

    def _retry_with_engine_version(self, request: PreparedRequest, options: dict[str, Any]) -> Response:
        """Retry with the engine's API version after it was replaced by one that refused ours."""
        self._health.disconnected = True
        found = self.version(api_version=False)
        self._version = str(found["ApiVersion"])
        assert request.url is not None
        request.url = IN_PATH.sub(rf"/v{self._version}\1", request.url, count=1)
        return self._send_once(request, options)

    def _observe_state(self, request: PreparedRequest) -> str:
        """Describe the current state of the container that a change was for; empty if unknown."""
        match = re.search(r"(/v[\d.]+/containers/)(?:create\?(?:.*&)?name=)?([^/?&]+)", request.url or "")
        if not match or match[2] == "create":
            return ""
        try:
            url = self._url("/containers/{0}/json", unquote(match[2]))
            response = super().send(self.prepare_request(requests.Request("GET", url)), timeout=OBSERVE_TIMEOUT)
            if response.status_code == 404:
                return "it does not exist now"
            return f"it is {response.json()['State']['Status']} now"
        except (requests.RequestException, DockerException, KeyError, TypeError):
            return ""

    def _raise_for_status(self, response: Response) -> None:
        """Raise an error with the response's message, also if it is not in Docker's format."""
        try:
            super()._raise_for_status(response)  # type: ignore[misc]  # the stubs leave it out
        except (KeyError, TypeError) as error:
            raise APIError(response.reason, response=response, explanation=response.text) from error

    def _result(self, response: Response, json: bool = False, binary: bool = False) -> Any:
        """Treat an unreadable response to a change as lost."""
        try:
            return super()._result(response, json=json, binary=binary)  # type: ignore[misc]  # the stubs leave it out
        except requests.JSONDecodeError as error:
            if response.request.method in READ_METHODS:
                raise
            raise AnswerLost(response.request, self._observe_state(response.request)) from error


def _never_sent(error: BaseException) -> bool:
    """Whether the request failed before anything was sent to the engine."""
    if isinstance(error, requests.ConnectTimeout):
        return True
    return any(isinstance(cause, NOT_SENT) for cause in cause_chain(error))


def cause_chain(error: BaseException) -> list[BaseException]:
    """An error and its causes, outermost first; the SDK wraps errors several times."""
    chain = []
    seen: BaseException | None = error
    while seen is not None:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    return chain


def _is_proxy_refusal(response: Response) -> bool:
    """Whether a proxy refused the request: an engine explains its refusals in JSON.

    Podman answers with plain text for an unknown path.
    """
    if response.status_code not in REFUSAL_STATUSES:
        return False
    try:
        words = response.json()["message"]
    except (requests.JSONDecodeError, KeyError, TypeError):
        return response.status_code not in (404, 405) or response.content.lstrip().startswith(b"<")
    return response.status_code != 404 and bool(PROXY_MESSAGE.fullmatch(str(words)))
