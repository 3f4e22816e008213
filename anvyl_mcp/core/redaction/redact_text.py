"""Arguments as they may be written down: without secrets, without control characters, and short."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.redaction.key_blocks import without_keys
from anvyl_mcp.core.redaction.redact_env import HIDDEN, NAMES, SHAPES, URL_LOGIN, WEBHOOK, is_count, mask

LONGEST = 200
"""Characters of one value that are written down."""
READ = 4096
"""Characters of one value that are looked at."""
MOST = 50
"""Entries of one list."""
LARGEST = 8 * 1024
"""Characters of all arguments together."""
ENTRY = "entry"
PAIRS = (ENTRY, "env", "environment", "labels")
"""Values that may be `NAME=value` as a whole, so that all of the value is hidden, spaces too."""

DIGEST = "sha256"
"""Of all arguments as they were given, where they are too long to be written down."""
_BLANKS = re.compile(r"[ \t]{2,}")
_VALUE = re.compile(
    r"""\\(?P<inner>['"]).*?\\(?P=inner)"""
    r"""|'[^']*'|"(?:\\.|[^"\\])*\""""
    r"""|(?:\\.|[^\s'"\\])+(?:'(?=\w)[^']*'|"(?=\w)(?:\\.|[^"\\])*")?|['"]\S*"""
)
_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL)
_SHAPE = re.compile(rf"(?:{SHAPES.pattern})[\w.+/=-]*")
_URL_TOKEN = re.compile(r"""(https?://)[^/\s:@'"]{8,}@""")
_HEADER = re.compile(
    r"""\b((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]*(?:key|token|auth|secret)[\w-]*)(\s*:\s*)[^'"\n]+""",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer|basic)(\s+)[\w.+/=~-]{6,}", re.IGNORECASE)
_LOGIN = re.compile(r"""(?<![\w-])((?:-u|-U|--user|--proxy-user)[\s=]*['"]?[^\s:'"]+:)[^\s'"]+""")
_NAMED = re.compile(
    r"""(?<![\w-])--?(?P<flag>[A-Za-z][\w.-]*)(?:=|\s+(?!-))"""
    r"""|(?<![\w.-])(?P<pair>[A-Za-z_][\w.-]*)(?:["']?\s*=>?\s*|["']?\s*:\s+|["']\s*:\s*)"""
    r"""|<(?P<tag>[A-Za-z][\w.-]*)>(?=[^\s<])"""
)
_PASSWORD = re.compile(
    r"(?<![\w-])-p(?=\S)(?!\d+:\d|ass(?:in|out|wd|word|phrase)?\b|ath\b|erm\b|id\b|ort\b|rint0?\b|rune\b)"
    r"|\b(?:sshpass|docker\s+login|podman\s+login|mysql\w*|mariadb\w*|mongo\w*)\b.{0,200}?\s-p\s+"
    r"|\bredis-cli\b.{0,200}?\s-a\s+"
)


def arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments for the audit log."""
    kept = {_short(str(name)): _kept(str(name), value, 0) for name, value in list(given.items())[:MOST]}
    while len(json.dumps(kept)) > LARGEST:
        # The longest go first: padding one argument must not hide the others.
        name = max(kept, key=lambda name: len(json.dumps(kept[name])))
        kept[name] = f"… ({len(json.dumps(given.get(name), default=str))} characters)"
    whole = json.dumps(given, sort_keys=True, default=str, ensure_ascii=True)
    if len(whole) > LONGEST:
        kept[DIGEST] = hashlib.sha256(whole.encode()).hexdigest()[:16]
    return kept


def line(typed: str) -> str:
    """A command line, URL or any other text with what looks secret hidden; nothing is shortened."""
    return _line("\n".join(without_keys(_KEY_BLOCK.sub(HIDDEN, typed).split("\n"))))


def lines(typed: Sequence[str]) -> list[str]:
    """Lines that follow one another, like those of a log: what looks secret is hidden, keys over several lines too."""
    return [_line(one) for one in without_keys(typed)]


def _line(typed: str) -> str:
    typed = WEBHOOK.sub(rf"\1{HIDDEN}", typed)
    typed = _HEADER.sub(rf"\1\2{HIDDEN}", typed)
    typed = _BEARER.sub(rf"\1\2{HIDDEN}", typed)
    typed = URL_LOGIN.sub(rf"\1:{HIDDEN}@", typed)
    typed = _URL_TOKEN.sub(rf"\1{HIDDEN}@", typed)
    typed = _LOGIN.sub(rf"\1{HIDDEN}", typed)
    typed = _without_values(typed, _NAMED, lambda match: looks_secret(match["flag"] or match["pair"] or match["tag"]))
    typed = _without_values(typed, _PASSWORD, lambda _: True)
    return _SHAPE.sub(HIDDEN, typed)


def looks_secret(name: str) -> bool:
    """Whether a value of that name is one to hide."""
    return bool(NAMES.search(name.replace("-", "_").replace(".", "_")))


def plain(words: str) -> str:
    """One short line without control characters, so that nobody writes records or colours into the log."""
    return _short(words)


def _kept(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if looks_secret(name) and value != "":
        return HIDDEN
    if isinstance(value, int | float):
        return value if math.isfinite(value) and abs(value) < 2**53 else _short(str(value))
    if depth > 2:
        return "…"
    if isinstance(value, Mapping):
        return {_short(str(key)): _kept(str(key), entry, depth + 1) for key, entry in list(value.items())[:MOST]}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        entries = [_kept(ENTRY, entry, depth + 1) for entry in value[:MOST]]
        return [*entries, f"… {len(value) - MOST} more"] if len(value) > MOST else entries
    given = str(value)
    # Never the end of a text whose middle was not looked at: it may begin inside a secret.
    looked = text.clean(_BLANKS.sub(" ", given)[:READ])
    whole = mask([looked])[0] if name in PAIRS else looked
    return _short(line(whole), length=len(given))


def _short(words: str, *, length: int = 0) -> str:
    if len(words) <= LONGEST and length <= READ and words.isascii() and words.isprintable():
        return words
    flat = text.clean(words).replace("\n", "\\n").replace("\t", "\\t")
    flat = flat.encode("utf-8", "replace").decode("utf-8")
    if len(flat) <= LONGEST and length <= READ:
        return flat
    flat = _BLANKS.sub(" ", flat)
    if len(flat) <= LONGEST and length <= READ:
        return flat
    return f"{flat[: LONGEST // 2]} … {flat[-LONGEST // 2 :]} ({length or len(words)} characters)"


def _without_values(typed: str, heads: re.Pattern[str], secret: Callable[[re.Match[str]], bool]) -> str:
    """`typed` without the word or quoted text that follows each match of `heads` that is `secret`."""
    kept, position = [], 0
    while match := heads.search(typed, position):
        kept.append(typed[position : match.end()])
        position = match.end()
        if secret(match) and (value := _VALUE.match(typed, position)) and not is_count(match[0], value[0]):
            kept.append(HIDDEN)
            position = value.end()
    return "".join(kept) + typed[position:]
