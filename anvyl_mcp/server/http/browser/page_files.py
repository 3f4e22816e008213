"""The files of the page as routes. They hold nothing about this host, so anyone who reaches it may load them."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from anvyl_mcp.core import web_page

FILES = {
    "/": (web_page.HTML, "text/html; charset=utf-8"),
    "/anvyl.css": (web_page.STYLE, "text/css; charset=utf-8"),
    "/anvyl.js": (web_page.SCRIPT, "text/javascript; charset=utf-8"),
}
"""Path → file and media type."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


def page_routes() -> list[Route]:
    """Return the routes of the files."""
    return [Route(path, _serve_file, methods=["GET"]) for path in FILES]


@cache
def _content(path: str) -> tuple[bytes, bytes, str]:
    """Return a file, the same compressed, and its entity tag."""
    plain = web_page.read_file(FILES[path][0]).encode()
    return plain, gzip.compress(plain, 9, mtime=0), f'"{hashlib.sha256(plain).hexdigest()[:16]}"'


async def _serve_file(request: Request) -> Response:
    path = request.url.path
    plain, packed, tag = _content(path)
    headers = {**HEADERS, "ETag": tag, "Content-Type": FILES[path][1]}
    if request.headers.get("if-none-match", "").removeprefix("W/") == tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(packed, headers={**headers, "Content-Encoding": "gzip"})
    return Response(plain, headers=headers)
