"""Docker's errors become ours here, once, with words a person or a model can act on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests
from docker.errors import APIError, DockerException, ImageNotFound

from anvyl_mcp import text
from anvyl_mcp.errors import AnvylError, Conflict, EngineError, EngineMissing, InvalidInput, NotFound, Timeout

PORT_TAKEN = re.compile(
    r"(?:Bind for|listen tcp[46]? |bind: |exposing port TCP )\s*\S*?:(\d+).*"
    r"(?:already allocated|already in use|bind: address already)",
    re.IGNORECASE | re.DOTALL,
)
NAME_TAKEN = re.compile(r'container name "/?([^"]+)" is already in use', re.IGNORECASE)


@contextmanager
def engine_errors(*, missing: Callable[[], AnvylError] | None = None, doing: str = "") -> Iterator[None]:
    """Raise our errors for Docker's. `missing` makes the error for a 404; `doing` names the work that failed."""
    try:
        yield
    except ImageNotFound as error:
        raise NotFound(_words(error) or "there is no such image", hint="see `list_images`") from error
    except APIError as error:
        if error.status_code == 404 and missing is not None:
            raise missing() from error
        raise _refusal(error, doing) from error
    except requests.exceptions.ReadTimeout as error:
        raise Timeout("the Docker engine does not answer", hint="look at its log: journalctl -u docker") from error
    except (DockerException, requests.exceptions.RequestException, OSError) as error:
        raise _unreachable(error) from error


def _refusal(error: APIError, doing: str) -> AnvylError:
    words = _words(error)
    if match := PORT_TAKEN.search(words):
        return Conflict(f"port {match[1]} is already in use on this host", hint="publish another port, like 8081:80")
    if match := NAME_TAKEN.search(words):
        return Conflict(f"there is a container `{match[1]}` already", hint="choose another name, or remove it first")
    match error.status_code:
        case 404:
            return NotFound(words or "the engine knows no such object")
        case 409:
            return Conflict(words or "the engine says that this conflicts with its present state")
        case 400:
            return InvalidInput(words or "the engine refused the request")
        case status:
            what = f" {doing}" if doing else ""
            return EngineError(
                f"the Docker engine failed{what}: {words or f'HTTP {status}'}", hint="see journalctl -u docker"
            )


def _unreachable(error: BaseException) -> AnvylError:
    """Why there is no engine, told from the whole chain of causes: the SDK wraps them several times."""
    seen: BaseException | None = error
    words = str(error)
    while seen is not None:
        if isinstance(seen, PermissionError):
            return EngineMissing(
                "Docker is here, but this user may not use it",
                hint="add the user to the `docker` group (sudo usermod -aG docker $USER) and log in again",
            )
        if isinstance(seen, FileNotFoundError):
            return EngineMissing(
                "no Docker engine is running on this host",
                hint="start it (sudo systemctl start docker), or point DOCKER_HOST at it",
            )
        seen = seen.__cause__ or seen.__context__
    if "permission denied" in words.lower():
        return _unreachable(PermissionError())
    if any(sign in words for sign in ("Connection refused", "FileNotFound", "No such file")):
        return _unreachable(FileNotFoundError())
    if "timed out" in words.lower():
        return Timeout("the Docker engine does not answer", hint="look at its log: journalctl -u docker")
    if "Connection aborted" in words or "RemoteDisconnected" in words:
        return EngineError(
            "the Docker engine closed the connection before it answered", hint="check that it runs and ask again"
        )
    return EngineMissing(f"no Docker engine can be reached: {text.clean(words)[:200]}", hint="check DOCKER_HOST")


def _words(error: APIError) -> str:
    """The engine's own explanation, cleaned, without the SDK's decoration."""
    return text.clean(str(error.explanation or "")).strip()[:400]
