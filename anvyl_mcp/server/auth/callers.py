"""Who calls, and what they may do."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Denied, InvalidInput, did_you_mean

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from anvyl_mcp.server.tool import Scope

SCOPES: tuple[Scope, ...] = ("read", "operate", "exec")
"""Each includes those before it."""
How = Literal["local", "loopback", "token", "jwt", "unknown"]
HOWS: tuple[How, ...] = ("local", "loopback", "token", "jwt")
THROUGH = " through "
"""Between who asks and who passes that on, in a caller's name."""
OWN_COMMANDS = "`anvyl` commands of the server's own user and of root send one by themselves"
OWN_NAMES = frozenset({"anvyl", "local", "nobody", "root"})
"""What this host itself calls callers: neither a token nor an identity provider can take such a name."""
LONGEST_NAME = 200
KEY = "anvyl.caller"
"""Where the caller stands in an ASGI scope once `Access` knows it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody at the door. `id` tells two of the same name apart: a token's id, `uid:1000`, an issuer's subject.

    `through` is the real caller when `name` says on whose behalf. `relayed`: it holds a token with the mark to ask on.
    `alone`: it says itself that the call is about this host only.
    """

    name: str
    scopes: frozenset[str]
    how: How
    address: str = ""
    id: str = ""
    through: str = ""
    relayed: bool = False
    alone: bool = False

    @property
    def relay(self) -> bool:
        """Whether this host's agent asks other hosts for it: a token is for the host that gave it, unless marked."""
        return not self.alone and (self.relayed or self.how in ("local", "loopback"))

    def may(self, scope: Scope) -> bool:
        """Whether this caller has a right."""
        return scope in self.scopes

    def require(self, scope: Scope, what: str) -> None:
        """Return if this caller has a right that `what` needs.

        Raises:
            Denied: the right is missing.
        """
        if scope not in self.scopes:
            has = ",".join(one for one in SCOPES if one in self.scopes) or "no rights"
            if self.how == "loopback" and not self.through:
                hint = f"send a token: anvyl-mcp token create NAME --scope {scope}; {OWN_COMMANDS}"
            else:
                scopes = ",".join(_up_to(scope))
                hint = f"on that host run `anvyl-mcp invite --scope {scopes}`, then here `anvyl hosts add`"
            raise Denied(f"{what} needs the right `{scope}`; `{self.name}` has {has}", hint=hint)


def lesser(caller: Caller, scopes: Iterable[str], asking: str = "") -> Caller:
    """The caller, with no more rights than `scopes`: those of the one it says it calls for. It never gains any."""
    chain = _chain(asking)
    through = caller.name if chain else ""
    name = THROUGH.join([*chain, through]) if chain else caller.name
    return replace(caller, name=name, scopes=caller.scopes & implied(scopes), through=through)


def checked_name(name: str) -> str:
    """The name under which an identity provider presents somebody, if it can be taken for no one else's.

    Raises:
        Denied: policies and people could read it as another caller.
    """
    kind = name.partition(":")[0].casefold()
    plain = name.isprintable() and text.clean(name) == name and name.strip() == name and 0 < len(name) <= LONGEST_NAME
    if not plain or "through" in name.casefold().split() or kind in (*HOWS, "uid") or name.casefold() in OWN_NAMES:
        raise Denied(
            f"the token is for `{text.format_value(name[:80])}`, which could pass for another caller",
            hint="have the identity provider name its subjects otherwise",
        )
    return name


def _chain(asking: str) -> list[str]:
    """Who asks through whom, in the words of a caller: however they are spaced, each of them stands alone."""
    words = text.clean(asking).split()
    names = " ".join("\n" if word.casefold() == "through" else word for word in words).split("\n")
    chain = [name.strip() for name in names if name.strip()]
    return chain or (["somebody"] if words else [])


def implied(scopes: Iterable[str]) -> frozenset[str]:
    """`scopes` with what they include: exec includes operate, operate includes read. Unknown words give nothing."""
    given = in_order(scopes)
    return frozenset(_up_to(given[-1])) if given else frozenset()


def parse_scopes(text: str) -> frozenset[str]:
    """The rights that a person typed, like `read,operate`.

    Raises:
        InvalidInput: one of them is no right.
    """
    words = [word for word in text.lower().replace(",", " ").split() if word]
    for word in words:
        if word not in SCOPES:
            raise InvalidInput(f"`{word}` is no right", hint=did_you_mean(word, SCOPES))
    if not words:
        raise InvalidInput("no rights are given", hint="use --scope read, --scope read,operate or --scope exec")
    return implied(words)


def in_order(scopes: Iterable[str]) -> list[str]:
    """Rights as people read them: the smallest first."""
    given = set(scopes)
    return [scope for scope in SCOPES if scope in given]


def _up_to(scope: str) -> tuple[Scope, ...]:
    return SCOPES[: SCOPES.index(scope) + 1]


LOCAL = Caller("local", frozenset(SCOPES), "local")
"""The process that started this one: stdio and in-memory."""
ACTING: ContextVar[Caller] = ContextVar("acting", default=LOCAL)
"""Whose call a tool is running for: what it finds on the way may need more rights than its arguments said."""
ANONYMOUS = Caller("nobody", frozenset(), "unknown")


def caller_of(request: HTTPConnection | None) -> Caller:
    """Who sent a request; without one it is this process itself, and one that nobody checked has no rights."""
    if request is None:
        return LOCAL
    return caller_in(request.scope)


def caller_in(scope: Any) -> Caller:
    """Who stands in an ASGI scope."""
    found = scope.get(KEY)
    return found if isinstance(found, Caller) else ANONYMOUS
