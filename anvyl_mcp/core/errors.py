"""Everything that can go wrong, named by what happened to the user.

AnvylError
├── InvalidInput        a caller could have avoided it: unknown argument, bad value, empty question
├── NotFound            no such container, image or object
│   └── UnknownHost     no host of that name, tag or selector
├── Conflict            a name or port in use, a state that forbids it
├── Gone                what was there once: an approval that was used or has expired
├── Denied              the permissions say no
├── Busy                somebody else is changing the same thing, or the host has enough to do
├── EngineError         the Docker engine failed or answered nonsense
│   └── EngineMissing   there is no Docker engine to talk to
├── Unreachable         a host did not answer at all
│   ├── Refused         nothing listens there
│   └── Unpaired        the host is not trusted yet: nothing is sent to it
├── Timeout             a host or an engine did not answer in time
├── Incomplete          some of what was asked for was not done
├── Unknown             a change may or may not have happened
├── Cancelled           stopped before it ended
├── ConfigInvalid       a settings or hosts file that cannot be used
├── ModelUnavailable    no language model answers
├── NotUnderstood       the rules cannot read the question
├── ApprovalNeeded      a change waits for a person's yes
│   └── Declined        the answer was no
├── NothingToDo         all is as it was asked to be already
└── InternalError       our own mistake
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import ClassVar, Self


class AnvylError(Exception):
    """A failure with one sentence for a person or a model, and a next step."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    choices: tuple[str, ...] = ()
    """The hosts of which a person can name one, where that is all that is missing."""
    by_host: Mapping[str, AnvylError] = MappingProxyType({})
    """Why it cannot be done on each host, where several were asked for."""

    def __init__(self, message: str, *, hint: str = "", call_hint: str = "") -> None:
        """`hint` is for a person at a command line; `call_hint` for who calls tools, where those need another step."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self._call_hint = call_hint

    def with_choices(self, hosts: Iterable[str]) -> Self:
        """The same, with the hosts that a person can choose from."""
        self.choices = tuple(hosts)
        return self

    def __str__(self) -> str:
        """The sentence and the next step, as a model reads them."""
        if not self.hint:
            return self.message
        return f"{self.message.rstrip('.')}. {self.hint[:1].upper()}{self.hint[1:]}"

    def for_tool_caller(self) -> AnvylError:
        """The same for who calls tools and has no command line."""
        return type(self)(self.message, hint=self._call_hint) if self._call_hint else self

    def on_host(self, host: str) -> AnvylError:
        """The same, naming the host where it went wrong."""
        return type(self)(f"{host}: {self.message}", hint=self.hint, call_hint=self._call_hint)

    def as_dict(self) -> dict[str, str]:
        """`{"code", "message", "hint"}`: the shape every face reports errors in."""
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
        """`retry_after`: the request was refused before anything was done; seconds until it may be sent again."""
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
"""Failures of the host itself; any other error is an answer that a healthy host gave."""


def from_code(code: str, message: str, hint: str = "") -> AnvylError:
    """The error another process reported, rebuilt from its words."""
    return BY_CODE.get(code, AnvylError)(message, hint=hint)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint naming what is near `word` among `known`, or what there is; empty when nothing is."""
    names = sorted(set(known))
    fold = {name.lower(): name for name in names}
    near = [fold[match] for match in get_close_matches(word.lower(), fold, n=3, cutoff=0.55)]
    near += [name for name in names if word and word.lower() in name.lower() and name not in near]
    if near:
        return f"did you mean {_listed(near[:3])}?"
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        return f"there is {_listed(names[:8])}{more}"
    return ""


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
