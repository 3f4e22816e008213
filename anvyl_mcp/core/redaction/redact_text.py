"""Redact secrets in text, log lines and tool arguments; shorten arguments for the audit log."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.redaction.key_blocks import redact_key_blocks
from anvyl_mcp.core.redaction.redact_env import (
    HIDDEN,
    SECRET_NAMES,
    TOKEN_SHAPES,
    URL_PASSWORD,
    WEBHOOK,
    is_token_count,
    redact_environment,
)

MAX_LOGGED = 200
"""Characters of one value in the audit log."""
MAX_SCANNED = 4096
"""Characters of one value that are searched for secrets; the rest is dropped."""
MAX_ENTRIES = 50
"""Entries of one list or map in the audit log."""
MAX_TOTAL = 8 * 1024
"""Characters of all arguments together in the audit log."""
ENTRY = "entry"
NEVER_LOGGED = ("dotenv",)
"""Arguments whose values are all secrets."""
PAIRS = (ENTRY, "env", "environment", "labels")
"""Arguments whose values are `NAME=value` entries, where the whole value is redacted, including spaces."""

DIGEST = "sha256"
"""Key of the digest of the original arguments, added if they are too long for the log."""
_BLANKS = re.compile(r"[ \t]{2,}")
_VALUE = re.compile(
    r"""\\(?P<inner>['"]).*?\\(?P=inner)"""
    r"""|'[^']*'|"(?:\\.|[^"\\])*\""""
    r"""|(?:\\.|[^\s'"\\])+(?:'(?=\w)[^']*'|"(?=\w)(?:\\.|[^"\\])*")?|['"]\S*"""
)
_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL)
_SHAPE = re.compile(rf"(?:{TOKEN_SHAPES.pattern})[\w.+/=-]*")
_URL_TOKEN = re.compile(r"""(https?://)[^/\s:@'"]{8,}@""")
_HEADER = re.compile(
    r"""\b((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]*(?:key|token|auth|secret)[\w-]*)(\s*:\s*)[^'"\n]+""",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer|basic)(\s+)[\w.+/=~-]{6,}", re.IGNORECASE)
_LOGIN = re.compile(r"""(?<![\w-])((?:-u|-U|--user|--proxy-user)[\s=]*['"]?[^\s:'"]+:)[^\s'"]+""")
_SIGNATURE = re.compile(r"""(?i)([?&](?:x-(?:amz|goog)-)?(?:sig|signature|security-token)=)[^&\s'"]+""")
_NETRC = re.compile(r"(\blogin\s+\S+\s+password\s+)\S+")
_PROSE = re.compile(
    r"""(?i)(\bpass(?:word|phrase|code)\s+(?:is|was)(?:\s+now)?:?\s+['"]?)(?=\S*[^\sA-Za-z]\S)[^\s'"]{5,}"""
)
"""`the password is hunter2!`, but not `the password is wrong`: with a digit or a symbol that is not its end."""
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


def redact_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Redact and shorten the arguments of a call for the audit log."""
    result = {
        to_log_line(str(name)): _redact_value(str(name), value, 0) for name, value in list(given.items())[:MAX_ENTRIES]
    }
    while len(json.dumps(result)) > MAX_TOTAL:
        # Drop the longest first, so that padding one argument does not hide the others.
        name = max(result, key=lambda name: len(json.dumps(result[name])))
        result[name] = f"… ({len(json.dumps(given.get(name), default=str))} characters)"
    whole = json.dumps(given, sort_keys=True, default=str, ensure_ascii=True)
    if len(whole) > MAX_LOGGED:
        result[DIGEST] = hashlib.sha256(whole.encode()).hexdigest()[:16]
    return result


def redact_text(typed: str) -> str:
    """Redact secrets in a command line, URL or any other text, without shortening it."""
    return _redact_line("\n".join(redact_key_blocks(_KEY_BLOCK.sub(HIDDEN, typed).split("\n"))))


def redact_lines(typed: Sequence[str]) -> list[str]:
    """Redact secrets in consecutive lines, like those of a log, including keys that span several lines."""
    return [_redact_line(one) for one in redact_key_blocks(typed)]


def _redact_line(typed: str) -> str:
    typed = WEBHOOK.sub(rf"\1{HIDDEN}", typed)
    typed = _HEADER.sub(rf"\1\2{HIDDEN}", typed)
    typed = _BEARER.sub(rf"\1\2{HIDDEN}", typed)
    typed = URL_PASSWORD.sub(rf"\1:{HIDDEN}@", typed)
    typed = _URL_TOKEN.sub(rf"\1{HIDDEN}@", typed)
    typed = _LOGIN.sub(rf"\1{HIDDEN}", typed)
    for pattern in (_SIGNATURE, _NETRC, _PROSE):
        typed = pattern.sub(rf"\1{HIDDEN}", typed)
    typed = _redact_values(typed, _NAMED, lambda match: looks_secret(match["flag"] or match["pair"] or match["tag"]))
    typed = _redact_values(typed, _PASSWORD, lambda _: True)
    return _SHAPE.sub(HIDDEN, typed)


def looks_secret(name: str) -> bool:
    """Whether a name is that of a secret."""
    return bool(SECRET_NAMES.search(name.replace("-", "_").replace(".", "_")))


def _redact_value(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if (looks_secret(name) and value != "") or (name in NEVER_LOGGED and value):
        return HIDDEN
    if isinstance(value, int | float):
        return value if math.isfinite(value) and abs(value) < 2**53 else to_log_line(str(value))
    if depth > 2:
        return "…"
    if isinstance(value, Mapping):
        return {
            to_log_line(str(key)): _redact_value(str(key), entry, depth + 1)
            for key, entry in list(value.items())[:MAX_ENTRIES]
        }
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        entries = [_redact_value(ENTRY, entry, depth + 1) for entry in value[:MAX_ENTRIES]]
        return [*entries, f"… {len(value) - MAX_ENTRIES} more"] if len(value) > MAX_ENTRIES else entries
    given = str(value)
    # Never keep the end of a text whose middle was not searched: it could start inside a secret.
    searched = text.clean(_BLANKS.sub(" ", given)[:MAX_SCANNED])
    whole = redact_environment([searched])[0] if name in PAIRS else searched
    return to_log_line(redact_text(whole), length=len(given))


def to_log_line(words: str, *, length: int = 0) -> str:
    """Shorten a text to one line without control characters, so that it cannot forge records or set colours.

    `length`: number of characters of the original text, if `words` is only a part of it.
    """
    if len(words) <= MAX_LOGGED and length <= MAX_SCANNED and words.isascii() and words.isprintable():
        return words
    flat = text.clean(words).replace("\n", "\\n").replace("\t", "\\t")
    flat = flat.encode("utf-8", "replace").decode("utf-8")
    if len(flat) <= MAX_LOGGED and length <= MAX_SCANNED:
        return flat
    flat = _BLANKS.sub(" ", flat)
    if len(flat) <= MAX_LOGGED and length <= MAX_SCANNED:
        return flat
    return f"{flat[: MAX_LOGGED // 2]} … {flat[-MAX_LOGGED // 2 :]} ({length or len(words)} characters)"


def _redact_values(typed: str, heads: re.Pattern[str], secret: Callable[[re.Match[str]], bool]) -> str:
    """Redact the word or quoted text after each match of `heads` for which `secret` is true."""
    result, position = [], 0
    while match := heads.search(typed, position):
        result.append(typed[position : match.end()])
        position = match.end()
        if secret(match) and (value := _VALUE.match(typed, position)) and not is_token_count(match[0], value[0]):
            result.append(HIDDEN)
            position = value.end()
    return "".join(result) + typed[position:]
