"""Redact private keys that span several lines, even if the text starts in the middle of one."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Literal

from anvyl_mcp.core.redaction.redact_env import HIDDEN

MAX_BLOCK_LINES = 400
"""Lines after which a block without an end marker is over. An 8,192-bit key has 100, and other lines can interleave."""
FULL_LINE_WIDTHS = frozenset({64, 70, 76})
"""Line lengths of PEM, OpenSSH and MIME."""
_BEGIN = re.compile(r"-{4,5} ?BEGIN (?P<what>[A-Z0-9 ]*)")
_END = re.compile(r"-{4,5} ?END (?P<what>[A-Z0-9 ]*)[- ]*")
_RUN = re.compile(r"(?<![\w+/=.@-])[A-Za-z0-9+/]{16,76}={0,2}(?![\w+/=-])")
_QUOTED = re.compile(r'(?<=")[A-Za-z0-9+/]{2,76}={0,2}(?=(?:\\r)?(?:\\n)?")')
_BODY = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_BASE64 = string.ascii_letters + string.digits + "+/="
_PRIVATE = "PRIVATE KEY"


class KeyBlockRedactor:
    """Redact private keys in a text, line by line. Certificates and public keys are kept."""

    def __init__(self) -> None:
        self._inside: Literal["", "private", "public", "body"] = ""
        self._words = 0
        self._left = 0

    def redact(self, line: str) -> str:
        """Return the next line of the text, with any part of a private key redacted."""
        if begin := _BEGIN.search(line):
            return self._begin(line, begin)
        if end := _END.search(line):
            self._inside = ""
            before = line[: end.start()].rstrip(_BASE64)
            return f"{before}{HIDDEN}{line[end.end() :]}" if _PRIVATE in end["what"] else line
        if self._inside == "public":
            return self._keep(line)
        shown = _QUOTED.sub(_redact_mixed, line) if self._inside else line
        shown = _RUN.sub(self._redact_run, shown)
        if shown != line:
            if not self._inside:
                self._enter("body", line[: shown.index(HIDDEN)])
            return shown
        if self._inside and _is_body(line, self._words):
            # In a block without a begin marker, a short line is the last one.
            self._inside = "private" if self._inside == "private" else ""
            return _redact_last_word(line)
        return self._keep(line)

    def _begin(self, line: str, begin: re.Match[str]) -> str:
        end = _END.search(line, begin.end())
        private = _PRIVATE in begin["what"]
        before = line[: begin.start()]
        self._inside = ""
        if end is None:
            self._enter("private" if private else "public", before)
        if not private:
            return line
        return f"{before}{HIDDEN}{line[end.end() :] if end else ''}"

    def _enter(self, what: Literal["private", "public", "body"], before: str) -> None:
        self._inside, self._words, self._left = what, len(before.split()), MAX_BLOCK_LINES

    def _redact_run(self, run: re.Match[str]) -> str:
        return _redact_mixed(run) if self._inside or len(run[0]) in FULL_LINE_WIDTHS else run[0]

    def _keep(self, line: str) -> str:
        self._left -= 1
        if self._left <= 0:
            self._inside = ""
        return line


def redact_key_blocks(lines: Sequence[str]) -> list[str]:
    """Redact private keys in lines, including a key of which only the end is present."""
    blocks = KeyBlockRedactor()
    shown = [blocks.redact(line) for line in lines]
    for number, line in enumerate(lines):
        end = _END.search(line)
        if end is None or _PRIVATE not in end["what"]:
            continue
        words = len(line[: end.start()].split())
        for before in range(number - 1, -1, -1):
            redacted = _redact_body(shown[before], words)
            if redacted == shown[before]:
                break
            shown[before] = redacted
    return shown


def _redact_body(line: str, words_before: int) -> str:
    """Redact key material in a line that precedes an end marker."""
    return _redact_last_word(line) if _is_body(line, words_before) else _QUOTED.sub(_redact_mixed, line)


def _is_body(line: str, words_before: int) -> bool:
    """Whether a line is base64 after as many words (a timestamp, say) as precede the block's first line."""
    words = line.split()
    return len(words) == words_before + 1 and bool(_BODY.fullmatch(words[-1]))


def _is_mixed(run: str) -> bool:
    """Whether text ends in `=`, or has upper case, lower case and digits; words and hexadecimal digests do not."""
    return run.endswith("=") or (
        any("a" <= char <= "z" for char in run)
        and any("A" <= char <= "Z" for char in run)
        and any("0" <= char <= "9" for char in run)
    )


def _redact_mixed(run: re.Match[str]) -> str:
    return HIDDEN if _is_mixed(run[0]) else run[0]


def _redact_last_word(line: str) -> str:
    return line[: len(line.rstrip()) - len(line.split()[-1])] + HIDDEN
