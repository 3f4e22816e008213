"""The two halves of a browser's session: a cookie that scripts cannot read, and a key that only the page can send.

Browsers send a cookie to every port of a host, so a server on another port may learn it. The key is kept by the page in
storage that belongs to its origin, port included, and travels in a header, which no other page can make a browser send.
Only both together are the session, so the key is also what protects against forged requests.
"""

from __future__ import annotations

import re
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.types import Scope

from anvyl_mcp.server.auth.tokens import PREFIX

SESSION = "/session"
HEADER = "x-anvyl-session"
"""Holds the session's id and its key: `1f0c9a2b.KEY`."""
SESSION_DAYS = 30
_HALF = 32
"""Characters of the secret in the cookie; the rest is the key."""
_ID_AND_KEY = re.compile(r"([0-9a-f]{8})\.([A-Za-z0-9_-]{32})", re.ASCII)
_SECRET = re.compile(rf"{PREFIX}([0-9a-f]{{8}})_([A-Za-z0-9_-]{{{_HALF}}})([A-Za-z0-9_-]{{32}})", re.ASCII)


def split(text: str) -> tuple[str, str, str]:
    """Split the text of a session: its id, the half for the cookie, and `ID.KEY` for the page."""
    found = _SECRET.fullmatch(text)
    assert found is not None
    return found[1], found[2], f"{found[1]}.{found[3]}"


def session_of(scope: Scope) -> str | None:
    """Return the text of the session that a request belongs to; None if it has no key, whatever its cookies.

    A key without its cookie gives a text that no session has.
    """
    headers = Headers(scope=scope)
    found = headers.getlist(HEADER)
    if not found:
        return None
    match = _ID_AND_KEY.fullmatch(found[0]) if len(found) == 1 else None
    if match is None:
        return f"{PREFIX}?"
    name = cookie_name(match[1], secure=scope["scheme"] == "https")
    return f"{PREFIX}{match[1]}_{_cookie(headers, name)}{match[2]}"


def cookie_name(identity: str, *, secure: bool) -> str:
    """Return the name of a session's cookie. `__Host-` forbids other hosts of the domain to set it."""
    return f"{'__Host-' if secure else ''}anvyl-{identity}"


def set_cookie_header(identity: str, value: str, *, secure: bool, seconds: int) -> str:
    """Return the `Set-Cookie` header; `seconds` of 0 delete the cookie."""
    attributes = f"Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
    return f"{cookie_name(identity, secure=secure)}={value}; {attributes}"


def _cookie(headers: Headers, name: str) -> str:
    """Return the value of a cookie; empty if it was sent twice, as when another port set one of the same name."""
    values = []
    for header in headers.getlist("cookie"):
        for part in header.split(";"):
            try:
                values += [morsel.value for key, morsel in SimpleCookie(part.strip()).items() if key == name]
            except CookieError:
                continue
    return values[0] if len(set(values)) == 1 else ""
