"""The files of the web page, as they are served and as one document for MCP clients."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "web"
HTML, STYLE, SCRIPT = "index.html", "anvyl.css", "anvyl.js"
STYLE_LINK = '<link rel="stylesheet" href="anvyl.css">'
SCRIPT_LINK = '<script type="module" src="anvyl.js"></script>'


@cache
def read_file(name: str) -> str:
    """Return the content of one of the files."""
    return (FOLDER / name).read_text(encoding="utf-8")


@cache
def single_document() -> str:
    """Return the page as one HTML document that refers to no other file.

    Raises:
        ValueError: the HTML no longer refers to its files as expected, or a file cannot stand inside it.
    """
    html, style, script = (read_file(name) for name in (HTML, STYLE, SCRIPT))
    if STYLE_LINK not in html or SCRIPT_LINK not in html or "</style" in style or "</script" in script:
        raise ValueError("the files of the page cannot be joined")
    html = html.replace(STYLE_LINK, f"<style>\n{style}</style>").replace("<html ", "<html data-app ", 1)
    return html.replace(SCRIPT_LINK, f'<script type="module">\n{script}</script>')
