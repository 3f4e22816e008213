"""The table of endpoints as a page for people: one file, no script, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from shlex import quote

from anvyl_mcp import __version__
from anvyl_mcp.orchestrator.api.endpoint import Endpoint

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; font-size: 1.1rem; }
code, pre { font: 0.9em/1.5 ui-monospace, monospace; }
pre { padding: 0.75rem 1rem; overflow-x: auto; border: 1px solid #8886; border-radius: 6px; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: 0.15rem 1rem 0.15rem 0; vertical-align: top; }
.method { display: inline-block; min-width: 4.5rem; font-weight: 600; }
.needs { opacity: 0.7; font-size: 0.9em; }
"""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def page(endpoints: Sequence[Endpoint], base_url: str, name: str) -> str:
    """The page of one host."""
    index = "".join(
        f'<tr><td><a href="#{escape(one.name)}"><code>{escape(one.method)} {escape(one.path)}</code></a></td>'
        f"<td>{escape(one.summary)}</td></tr>"
        for one in endpoints
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Anvyl on {escape(name)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>Anvyl on {escape(name)}</h1>\n"
        f"<p>Version {escape(__version__)}. Whoever runs this server needs no token on its own machine; everybody else "
        "sends <code>Authorization: Bearer TOKEN</code>. Bodies are JSON. For programs there is "
        '<a href="/openapi.json">/openapi.json</a>.</p>\n'
        f"<table>{index}</table>\n"
        + "\n".join(_section(one, base_url) for one in endpoints)
        + '\n<h2>Errors</h2><p>Every error is <code>{"error": {"code", "message", "hint", "request_id"}}</code>: what '
        "happened, and what to try.</p>\n</body></html>\n"
    )


def _section(one: Endpoint, base_url: str) -> str:
    shown = "".join(
        f"<p>answers <code>{status}</code>:</p><pre>{escape(json.dumps(example, indent=2, ensure_ascii=False))}</pre>"
        for status, example in one.shows.items()
    )
    return (
        f'<h2 id="{escape(one.name)}"><span class="method">{escape(one.method)}</span> '
        f"<code>{escape(one.path)}</code></h2>\n"
        f'<p>{escape(one.summary)} <span class="needs">Needs the right {escape(one.needs)}.</span></p>\n'
        f"<pre>{escape(_curl(one, base_url))}</pre>{shown}"
    )


def _curl(one: Endpoint, base_url: str) -> str:
    words = ["curl"]
    if one.streams:
        words.append("-N")
    if one.method not in ("GET", "POST"):
        words += ["-X", one.method]
    if one.example is not None:
        words += ["-H", "'Content-Type: application/json'", "-d", quote(json.dumps(one.example))]
    path = re.sub(r"{(\w+)}", lambda hole: hole[1].upper(), one.path)
    return " ".join([*words, base_url + path])
