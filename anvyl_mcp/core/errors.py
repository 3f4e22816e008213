"""The tree of errors, named by what happened to the user.

AnvylError
├── InvalidInput        the request is wrong: unknown argument, bad value, empty question
├── NotFound            no container, image or other object has that name
│   └── UnknownHost     no host matches the name, tag or selector
├── Conflict            a name or port is in use, or the object is in the wrong state
├── Gone                an approval was used or has expired
├── Denied              the caller has no permission
├── Busy                the object is locked by another caller, or the host is overloaded
├── EngineError         the Docker engine failed, or its response is not valid
│   └── EngineMissing   no Docker engine was found
├── Unreachable         the host did not respond
│   ├── Refused         the connection was refused
│   └── Unpaired        the host is not paired yet, so Anvyl sends nothing to it
├── Timeout             a host or an engine did not respond in time
├── Incomplete          only a part of the request was carried out
├── Unknown             a change may or may not have happened
├── Cancelled           the operation was cancelled before it finished
├── ConfigInvalid       a settings or hosts file is not valid
├── ModelUnavailable    no language model responds
├── NotUnderstood       the rules cannot parse the question
├── ApprovalNeeded      a change needs the approval of a person
│   └── Declined        the person declined it
├── NothingToDo         everything is already in the requested state
└── InternalError       a bug in Anvyl
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import ClassVar, Self


class AnvylError(Exception):
    """A failure: one sentence for a person or a model, and a hint what to do next."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    choices: tuple[str, ...] = ()
    """Hosts to choose from, if the request is only missing the host."""
    by_host: Mapping[str, AnvylError] = MappingProxyType({})
    """The error on each host, for a request to several hosts."""

    def __init__(self, message: str, *, hint: str = "", call_hint: str = "") -> None:
        """`hint` is for a person at the command line; `call_hint` replaces it for callers of tools."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self._call_hint = call_hint

    def with_choices(self, hosts: Iterable[str]) -> Self:
        """Set the hosts to choose from, and return the error."""
        self.choices = tuple(hosts)
        return self

    def __str__(self) -> str:
        """The message and the hint as one text for a model."""
        if not self.hint:
            return self.message
        return f"{self.message.rstrip('.')}. {self.hint[:1].upper()}{self.hint[1:]}"

    def for_tool_caller(self) -> AnvylError:
        """Return the error with the hint for callers of tools, who have no command line."""
        return type(self)(self.message, hint=self._call_hint) if self._call_hint else self

    def on_host(self, host: str) -> AnvylError:
        """Return a copy whose message starts with the host name."""
        return type(self)(f"{host}: {self.message}", hint=self.hint, call_hint=self._call_hint)

    def as_dict(self) -> dict[str, str]:
        """`{"code", "message", "hint"}`, the format of errors in every interface."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class InvalidInput(AnvylError):
    code = "invalid_input"
    exit_code = 2


class NotFound(AnvylError):
    code = "not_found"


class UnknownHost(NotFound):
    code = "unknown_host"
    exit_code = 2


class Conflict(AnvylError):
    code = "conflict"


class Gone(AnvylError):
    code = "gone"


class Denied(AnvylError):
    code = "denied"


class Busy(AnvylError):
    code = "busy"

    def __init__(self, message: str, *, hint: str = "", call_hint: str = "", retry_after: float = 0.0) -> None:
        """`retry_after`: seconds until the caller may retry; only set if nothing was changed."""
        super().__init__(message, hint=hint, call_hint=call_hint)
        self.retry_after = retry_after


class EngineError(AnvylError):
    code = "engine_error"


class EngineMissing(EngineError):
    code = "engine_missing"


class Unreachable(AnvylError):
    code = "unreachable"


class Refused(Unreachable):
    code = "refused"


class Unpaired(Unreachable):
    code = "unpaired"


class Timeout(AnvylError):
    code = "timeout"


class Incomplete(AnvylError):
    code = "incomplete"
    exit_code = 3


class Unknown(AnvylError):
    code = "unknown"


class Cancelled(AnvylError):
    code = "cancelled"


class ConfigInvalid(AnvylError):
    code = "config_invalid"


class ModelUnavailable(AnvylError):
    code = "model_unavailable"
    exit_code = 4


class NotUnderstood(AnvylError):
    code = "not_understood"
    exit_code = 4


class ApprovalNeeded(AnvylError):
    code = "approval_needed"
    exit_code = 5


class Declined(ApprovalNeeded):
    def __init__(self) -> None:
        super().__init__("Cancelled; nothing was changed.")


class NothingToDo(AnvylError):
    code = "nothing_to_do"
    exit_code = 0


class InternalError(AnvylError):
    code = "internal_error"


def _tree(root: type[AnvylError]) -> Iterable[type[AnvylError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


BY_CODE: dict[str, type[AnvylError]] = {cls.code: cls for cls in _tree(AnvylError) if "code" in vars(cls)}

HOST_FAILURES = (Unreachable, Timeout, Unknown, Cancelled, EngineError, Busy)
"""Errors that mean the host itself is in trouble. Any other error is the response of a healthy host."""


def from_code(code: str, message: str, hint: str = "") -> AnvylError:
    """Rebuild an error that another process reported."""
    return BY_CODE.get(code, AnvylError)(message, hint=hint)


class OnFailure:
    """Notes whatever exception ends the block, cancellation included, and lets it go on.

    `error` is that exception; `note` is called with it.
    """

    def __init__(self, note: Callable[[BaseException], object] = lambda _: None) -> None:
        self._note = note
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        """Begin the block."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Note the exception, if any."""
        self.error = error
        if error is not None:
            self._note(error)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint with the names most similar to `word`, or else the known names; empty if there are none."""
    names = sorted(set(known))
    fold = {name.lower(): name for name in names}
    near = [fold[match] for match in get_close_matches(word.lower(), fold, n=3, cutoff=0.55)]
    near += [name for name in names if word and word.lower() in name.lower() and name not in near]
    if near:
        return f"did you mean {_listed(near[:3])}?"
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        return f"choose from {_listed(names[:8])}{more}"
    return ""


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
