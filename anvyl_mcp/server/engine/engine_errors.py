"""Translate the SDK's errors to `AnvylError`s with a message and hint that a person or model can act on."""

from __future__ import annotations

import http.client
import json
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import (
    AnvylError,
    Conflict,
    Denied,
    EngineError,
    EngineMissing,
    InvalidInput,
    NotFound,
    Timeout,
    Unknown,
)
from anvyl_mcp.server.engine import compat
from anvyl_mcp.server.engine.client import (
    READ_METHODS,
    AnswerLost,
    InvalidObjectName,
    ProxyRefusal,
    Redirected,
    cause_chain,
)
from anvyl_mcp.server.engine.sockets import no_permission
from anvyl_mcp.server.policy import object_names

PORT_TAKEN = re.compile(
    r"(?:Bind for|listen tcp[46]? |bind: |exposing port TCP )\s*\S*?:(\d+).*"
    r"(?:already allocated|already in use|bind: address already)",
    re.IGNORECASE | re.DOTALL,
)
NAME_TAKEN = re.compile(r'container name "/?([^"]+)" is already in use', re.IGNORECASE)

AMBIGUOUS = re.compile(r"multiple ids found|is ambiguous|more than one (?:result|container|network)", re.IGNORECASE)

LOG_HINT = "see the engine's log: journalctl -u docker (or -u podman)"
LONG_ID = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
WRONG_STATE = re.compile(r"container state improper|as it is (?:running|paused)", re.IGNORECASE)
ALREADY_EXISTS = re.compile(r"already (?:used|exists|in use)", re.IGNORECASE)
NOT_FOUND = re.compile(r"(?:network|volume|image|container) not found|no such (?:network|volume|image|container)", re.I)
NO_PROGRAM = re.compile(r'exec: "(.*?)": (stat .*?: no such file or directory|executable file not found in \$PATH)')
"""Messages that Podman sends with status 500 where Docker uses a specific status."""
DENIED_BY_PLUGIN = re.compile(r"denied by plugin", re.IGNORECASE)
HTML_TAG = re.compile(r"<(?:style|script|title)\b.*?</\w+>|<[^>]*>", re.IGNORECASE | re.DOTALL)
ID_IN_PATH = re.compile(r"/[0-9a-f]{12,64}(?=/|$)")
PROXY_SECTIONS = frozenset(
    {"_ping", "auth", "build", "commit", "configs", "containers", "distribution", "events", "exec", "images", "info"}
    | {
        "networks",
        "nodes",
        "plugins",
        "secrets",
        "services",
        "session",
        "swarm",
        "system",
        "tasks",
        "version",
        "volumes",
    }
)
"""Sections of the engine's API that a socket proxy allows one by one."""

PROTOCOL_ERRORS = urllib3.exceptions.ProtocolError | requests.exceptions.ChunkedEncodingError


@contextmanager
def engine_errors(
    *,
    missing: Callable[[], AnvylError] | None = None,
    several: Callable[[], AnvylError] | None = None,
    doing: str = "",
) -> Iterator[None]:
    """Raise `AnvylError`s instead of the SDK's. `missing` creates the error for a 404, `several` the one for an
    ambiguous id; `doing` names the action for messages, like "to stop `web`".
    """
    try:
        yield
    except InvalidObjectName as error:
        raise (missing() if missing else NotFound(str(error), hint=object_names.naming_hint(error.kind))) from error
    except Redirected as error:
        raise EngineError(
            "the Docker engine answered with a redirect, which is not followed", hint="check DOCKER_HOST"
        ) from error
    except ImageNotFound as error:
        raise NotFound(_explanation(error) or "there is no such image", hint="see `list_images`") from error
    except APIError as error:
        if error.status_code == 404 and missing is not None:
            raise missing() from error
        if several is not None and AMBIGUOUS.search(_explanation(error)):
            raise several() from error
        raise _from_api_error(error, doing) from error
    except AnswerLost as error:
        raise _unknown_outcome(error, doing) from error
    except ProxyRefusal as error:
        raise _proxy_refusal(error, doing) from error
    except requests.Timeout as error:
        raise engine_timeout() from error
    except (requests.JSONDecodeError, json.JSONDecodeError, struct.error) as error:
        raise compat.unreadable_answer() from error
    except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _from_connection_error(error) from error


def engine_timeout() -> Timeout:
    """The error for an engine that hangs."""
    return Timeout("the Docker engine does not answer", hint="check its log: journalctl -u docker")


def _unknown_outcome(error: AnswerLost, doing: str) -> Unknown:
    """The error for a change whose response was lost."""
    what = f"whether it managed {doing}" if doing else "whether the request succeeded"
    seen = f"; {error.observed}" if error.observed else ""
    return Unknown(
        f"the Docker engine did not say {what}: it may or may not have happened{seen}",
        hint="check the current state before you try again",
    )


def _proxy_refusal(error: ProxyRefusal, doing: str) -> Denied:
    """The error for a socket proxy; the hint names the switches of docker-socket-proxy and its relatives."""
    what = f"Anvyl {doing}" if doing else f"{error.method} {ID_IN_PATH.sub('/*', error.path)}"
    sections = [part.strip("_").upper() for part in error.path.split("/") if part in PROXY_SECTIONS]
    switches = [*(["POST=1"] if error.method not in READ_METHODS else []), *(f"{section}=1" for section in sections)]
    settings = text.join_names(switches) or "what it needs"
    return Denied(
        f"the socket proxy at {error.address} does not allow {what}",
        hint=f"set {settings} in its environment, or point DOCKER_HOST at the engine",
    )


def _from_api_error(error: APIError, doing: str) -> AnvylError:
    words = _explanation(error)
    if found := known_problem(words):
        return found
    if error.status_code == 500 and (known := _from_podman_message(words)):
        return known
    match error.status_code:
        case 404:
            return NotFound(words or "the engine has no such object")
        case 409:
            return Conflict(words or "this conflicts with the engine's current state")
        case 400 if "client version" in words:
            return EngineError(
                f"the Docker engine does not support this API version: {words}", hint="upgrade the engine or Anvyl"
            )
        case 403 if DENIED_BY_PLUGIN.search(words):
            return Denied(words, hint="an authorization plugin of the engine denied this; ask its administrator")
        case 403:
            return Conflict(words)
        case 400:
            return InvalidInput(words or "the engine refused the request")
        case status:
            what = f" {doing}" if doing else ""
            return EngineError(f"the Docker engine failed{what}: {words or f'HTTP {status}'}", hint=LOG_HINT)


def known_problem(words: str) -> AnvylError | None:
    """The error for a message of the engine that is seen often, or None."""
    if match := PORT_TAKEN.search(words):
        return Conflict(f"port {match[1]} is already in use on this host", hint="publish another port, like 8081:80")
    if match := NAME_TAKEN.search(words):
        return Conflict(
            f"a container named `{match[1]}` already exists", hint="choose another name, or remove it first"
        )
    if match := NO_PROGRAM.search(words):
        return InvalidInput(f"the image has no program `{match[1]}`", hint="check the command")
    return None


def brief(words: str) -> str:
    """A message of the engine in a few words, if it is a known one, and with short ids."""
    words = LONG_ID.sub(r"\1", text.clean(words))
    found = known_problem(words)
    return found.message if found else words


def _from_podman_message(words: str) -> AnvylError | None:
    """The error for a message of Podman's, or None if it is unknown."""
    if WRONG_STATE.search(words):
        return Conflict(words, hint="stop it first, or use `force`")
    if ALREADY_EXISTS.search(words):
        return Conflict(words, hint="use it, or choose another name")
    if NOT_FOUND.search(words):
        return NotFound(words)
    return None


def _from_connection_error(error: BaseException) -> AnvylError:
    """The error for a failed connection, from the whole chain of causes: the SDK wraps them several times."""
    chain = cause_chain(error)
    for cause in chain:
        if isinstance(cause, AnvylError):
            return cause
        if isinstance(cause, PermissionError):
            return no_permission()
        if isinstance(cause, FileNotFoundError | ConnectionRefusedError):
            return EngineMissing(
                "no Docker engine is running on this host",
                hint="start it (sudo systemctl start docker), or point DOCKER_HOST at it",
            )
        if isinstance(cause, TimeoutError | BlockingIOError | urllib3.exceptions.TimeoutError):
            return engine_timeout()
    if any(isinstance(cause, ConnectionError | http.client.HTTPException | PROTOCOL_ERRORS) for cause in chain):
        return EngineError(
            "the Docker engine closed the connection before its response ended",
            hint="check that it runs (journalctl -u docker) and try again",
        )
    words = text.clean(" ".join(str(error).split()))[:200]
    return EngineMissing(f"cannot reach a Docker engine: {words}", hint="check DOCKER_HOST")


def _explanation(error: APIError) -> str:
    """The engine's message, cleaned and shortened, without a proxy's HTML."""
    message = str(error.explanation or "").strip()
    if message.startswith("<"):
        message = " ".join(HTML_TAG.sub(" ", message).split())
    return LONG_ID.sub(r"\1", text.clean(message))[:400]
