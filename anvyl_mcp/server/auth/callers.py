"""Callers and their scopes."""

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
"""In ascending order: each includes those before it."""
AuthMethod = Literal["local", "loopback", "token", "jwt", "unknown"]
AUTH_METHODS: tuple[AuthMethod, ...] = ("local", "loopback", "token", "jwt")
THROUGH = " through "
"""Separates the original user from the relaying caller in a caller's name: `ann through laptop`."""
OWN_COMMANDS = "`anvyl` commands run as the server's user or root send one automatically"
RESERVED_NAMES = frozenset({"anvyl", "local", "nobody", "root"})
"""Caller names that this host assigns itself; no token or identity provider may use them."""
LONGEST_NAME = 200
CALLER_KEY = "anvyl.caller"
"""Key in an ASGI scope under which `Authentication` stores the caller."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated sender of a request. `id` is unique: a token's id, `uid:1000`, or an issuer's subject.

    `through` is the relaying caller if `name` is a user it acts for. `relayed`: it holds a token marked as relay.
    `alone`: it has limited the call to this host.
    """

    name: str
    scopes: frozenset[str]
    how: AuthMethod
    address: str = ""
    id: str = ""
    through: str = ""
    relayed: bool = False
    alone: bool = False

    @property
    def relay(self) -> bool:
        """Whether this host's agent may call other hosts for it: a token is for this host only, unless marked."""
        return not self.alone and (self.relayed or self.how in ("local", "loopback"))

    def may(self, scope: Scope) -> bool:
        """Whether this caller has a scope."""
        return scope in self.scopes

    def require(self, scope: Scope, what: str) -> None:
        """Return if this caller has the scope that `what` needs.

        Raises:
            Denied: the scope is missing.
        """
        if scope not in self.scopes:
            has = ",".join(sort_scopes(self.scopes)) or "no scopes"
            if self.how == "loopback" and not self.through:
                hint = f"send a token: anvyl-mcp token create NAME --scope {scope}; {OWN_COMMANDS}"
            else:
                scopes = ",".join(_up_to(scope))
                hint = f"on that host run `anvyl-mcp invite --scope {scopes}`, then here `anvyl hosts add`"
            raise Denied(f"{what} needs the scope `{scope}`; `{self.name}` has {has}", hint=hint)


def restrict(caller: Caller, scopes: Iterable[str], on_behalf: str = "") -> Caller:
    """Reduce a caller to the scopes of the user it acts for; never adds any."""
    chain = _behalf_chain(on_behalf)
    through = caller.name if chain else ""
    name = THROUGH.join([*chain, through]) if chain else caller.name
    return replace(caller, name=name, scopes=caller.scopes & implied_scopes(scopes), through=through)


def check_subject(name: str) -> str:
    """Return the subject of an identity provider's token if it cannot be confused with another caller.

    Raises:
        Denied: policies or people could mistake it for another caller.
    """
    kind = name.partition(":")[0].casefold()
    plain = name.isprintable() and text.clean(name) == name and name.strip() == name and 0 < len(name) <= LONGEST_NAME
    if (
        not plain
        or "through" in name.casefold().split()
        or kind in (*AUTH_METHODS, "uid")
        or name.casefold() in RESERVED_NAMES
    ):
        raise Denied(
            f"the token is for `{text.format_value(name[:80])}`, which could pass for another caller",
            hint="change the subject at the identity provider",
        )
    return name


def _behalf_chain(on_behalf: str) -> list[str]:
    """Split `ann through laptop` into its names, whatever the spacing."""
    words = text.clean(on_behalf).split()
    names = " ".join("\n" if word.casefold() == "through" else word for word in words).split("\n")
    chain = [name.strip() for name in names if name.strip()]
    return chain or (["somebody"] if words else [])


def implied_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """`scopes` and the scopes they include: exec includes operate, operate includes read. Ignores unknown words."""
    known = sort_scopes(scopes)
    return frozenset(_up_to(known[-1])) if known else frozenset()


def parse_scopes(text: str) -> frozenset[str]:
    """Parse scopes like `read,operate`.

    Raises:
        InvalidInput: there are none, or one is unknown.
    """
    words = [word for word in text.lower().replace(",", " ").split() if word]
    for word in words:
        if word not in SCOPES:
            raise InvalidInput(f"`{word}` is not a scope", hint=did_you_mean(word, SCOPES))
    if not words:
        raise InvalidInput("no scope given", hint="use --scope read, --scope read,operate or --scope exec")
    return implied_scopes(words)


def sort_scopes(scopes: Iterable[str]) -> list[str]:
    """Known scopes in ascending order."""
    unordered = set(scopes)
    return [scope for scope in SCOPES if scope in unordered]


def _up_to(scope: str) -> tuple[Scope, ...]:
    return SCOPES[: SCOPES.index(scope) + 1]


LOCAL = Caller("local", frozenset(SCOPES), "local")
"""The process that started this one, over stdio or in memory."""
CURRENT_CALLER: ContextVar[Caller] = ContextVar("acting", default=LOCAL)
"""The caller of the running tool: what the tool finds may need more scopes than its arguments did."""
ANONYMOUS = Caller("nobody", frozenset(), "unknown")


def caller_of(request: HTTPConnection | None) -> Caller:
    """Return the sender of a request: `LOCAL` without a request, `ANONYMOUS` if it was not authenticated."""
    if request is None:
        return LOCAL
    return caller_in(request.scope)


def caller_in(scope: Any) -> Caller:
    """Return the caller in an ASGI scope."""
    found = scope.get(CALLER_KEY)
    return found if isinstance(found, Caller) else ANONYMOUS
