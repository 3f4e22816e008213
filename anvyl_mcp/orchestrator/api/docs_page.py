"""The endpoints as an HTML page: one file, without scripts or external resources."""

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
    """HTML documentation of one host's API."""
    index = "".join(
        f'<tr><td><a href="#{escape(endpoint.name)}"><code>{escape(endpoint.method)} {escape(endpoint.path)}</code></a>'
        f"</td><td>{escape(endpoint.summary)}</td></tr>"
        for endpoint in endpoints
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Anvyl on {escape(name)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>Anvyl on {escape(name)}</h1>\n"
        f"<p>Version {escape(__version__)}. The user who runs this server needs no token on the same machine; other "
        "callers send <code>Authorization: Bearer TOKEN</code>. Bodies are JSON. The OpenAPI document is "
        '<a href="/openapi.json">/openapi.json</a>.</p>\n'
        f"<table>{index}</table>\n"
        + "\n".join(_section(endpoint, base_url) for endpoint in endpoints)
        + '\n<h2>Errors</h2><p>Every error is <code>{"error": {"code", "message", "hint", "request_id"}}</code>: what '
        "happened, and what to try.</p>\n</body></html>\n"
    )


def _section(endpoint: Endpoint, base_url: str) -> str:
    examples = "".join(
        f"<p>Response <code>{status}</code>:</p><pre>{escape(json.dumps(example, indent=2, ensure_ascii=False))}</pre>"
        for status, example in endpoint.response_examples.items()
    )
    return (
        f'<h2 id="{escape(endpoint.name)}"><span class="method">{escape(endpoint.method)}</span> '
        f"<code>{escape(endpoint.path)}</code></h2>\n"
        f'<p>{escape(endpoint.summary)} <span class="needs">Needs the scope {escape(endpoint.scope)}.</span></p>\n'
        f"<pre>{escape(_curl(endpoint, base_url))}</pre>{examples}"
    )


def _curl(endpoint: Endpoint, base_url: str) -> str:
    words = ["curl"]
    if endpoint.streams:
        words.append("-N")
    if endpoint.method not in ("GET", "POST"):
        words += ["-X", endpoint.method]
    if endpoint.example is not None:
        words += ["-H", "'Content-Type: application/json'", "-d", quote(json.dumps(endpoint.example))]
    path = re.sub(r"{(\w+)}", lambda parameter: parameter[1].upper(), endpoint.path)
    return " ".join([*words, base_url + path])
