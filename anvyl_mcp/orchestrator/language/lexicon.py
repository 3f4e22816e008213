"""The words of each language, from one TOML file per language, and the translation of other languages into English.

Everything after the translation reads English only. A form in a file is a phrase, in which `…` stands for up to four
other words, `[now]` for an optional word, `(on|off)` for one of several, and `*` at the edge of a word for its rest.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
OTHERS = ("de", "fr", "es")
"""Languages besides English; each is one file here, named by its code."""
NAMES = frozenset({"roles", "options"})
"""Sections with names of images and options, which show no language."""
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
FEWEST_WORDS = 4
ENGLISH_ONLY = frozenset({"the", "and", "are", "been", "have", "from", "there", "this", "that", "with", "which", "not"})
"""Frequent words that de, fr, es and their neighbours do not have."""
GAP = r"((?:\s+(?!(?:off|up|down|away|out)\b)[^\s,;]+){{0,{most}}}?)"
MOST_BETWEEN = 8
"""Words in a gap of another language, whose verbs come in two parts far from each other."""


@cache
def words_of_language(code: str) -> Mapping[str, Any]:
    """The file of one language."""
    return tomllib.loads((FOLDER / f"{code}.toml").read_text(encoding="utf-8"))


def rewritten(said: str, section: str, code: str = "en") -> str:
    """A text after the replacements of a section, which are regular expressions."""
    for form, replacement in _rewrites(section, code):
        said = form.sub(replacement, said)
    return said


@cache
def _rewrites(section: str, code: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    pairs = words_of_language(code).get(section, {}).items()
    return tuple((re.compile(one, re.IGNORECASE), other) for one, other in pairs)


def english(section: str, key: str) -> frozenset[str]:
    """Words of one entry of the English file."""
    return frozenset(words_of_language("en")[section][key].split())


def pattern(form: str, most: int = 4) -> str:
    """Regular expression for a form; every gap is a group, of `most` words."""
    return _apart(_inner(form, most))


def _apart(inner: str) -> str:
    return rf"(?<![\w/.-])(?:{inner})(?![\w-])"


@lru_cache(maxsize=2048)
def _inner(form: str, most: int = 4) -> str:
    parts: list[str] = []
    optional_first = False
    for piece in re.findall(r"\[[^\]]*\]|\([^)]*\)|…|[^\s\[\]()…]+", form):
        space = "" if not parts or optional_first else r"\s+"
        optional_first = False
        if piece == "…":
            parts.append(GAP.format(most=most) if not form.endswith("…") else r"(\s+[^\s,;?!]+)")
        elif piece.startswith("["):
            inner = _either(piece[1:-1].split("|"))
            parts.append(rf"(?:{space}{inner})?" if parts else rf"(?:{inner}\s+)?")
            optional_first = len(parts) == 1
        elif piece.startswith("("):
            parts.append(space + _either(piece[1:-1].split("|")))
        else:
            parts.append(space + _word(piece))
    return "".join(parts)


def _either(words: Iterable[str]) -> str:
    return "(?:" + "|".join(r"\s+".join(_word(one) for one in word.split()) for word in words) + ")"


def _word(word: str) -> str:
    before, after = ("\\w*" if word.startswith("*") else ""), ("\\w*" if word.endswith("*") else "")
    return f"{before}{re.escape(word.strip('*'))}{after}"


@lru_cache(maxsize=2048)
def _needed(form: str) -> tuple[tuple[str, ...], ...]:
    """Beginnings of words, one of each of which is in every text that holds a form."""
    needed: list[tuple[str, ...]] = []
    for piece in re.findall(r"\[[^\]]*\]|\([^)]*\)|[^\s\[\]()]+", form):
        if piece[0] not in "[{*…":
            ways = piece[1:-1].split("|") if piece.startswith("(") else [piece]
            needed.append(tuple(way.split()[0].strip("*") if way[0].isalnum() else "" for way in ways))
    return tuple(needed)


def may_hold(said: str, form: str) -> bool:
    """Whether a text in lower case may hold a form; cheap, so that few patterns have to be compiled."""
    return all(any(_begins_a_word(said, way) for way in ways) for ways in _needed(form))


def _begins_a_word(said: str, part: str) -> bool:
    at = said.find(part)
    while at > 0 and (said[at - 1].isalnum() or said[at - 1] == "_"):
        at = said.find(part, at + 1)
    return at >= 0


def any_of(forms: Iterable[str]) -> str:
    """Regular expression for any of the forms, the longest first."""
    return _apart("|".join(map(_inner, sorted(forms, key=len, reverse=True)))) if forms else "(?!)"


def folded(said: str) -> str:
    """Lower case without accents, character by character, so that positions stay."""
    plain = "".join(unicodedata.normalize("NFD", letter)[:1] or letter for letter in said)
    return "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in plain)


@dataclass(frozen=True)
class _Entry:
    form: re.Pattern[str]
    english: str


@cache
def _entries(code: str) -> tuple[_Entry, ...]:
    """Translations of one language, the longest forms first."""
    file = words_of_language(code)
    forms = [(form, key) for section in ("verbs", "words") for key, forms in file[section].items() for form in forms]
    forms.sort(key=lambda entry: len(entry[0]), reverse=True)
    return tuple(_Entry(re.compile(pattern(folded(form), MOST_BETWEEN)), key) for form, key in forms)


@cache
def all_words() -> frozenset[str]:
    """All words that the English file knows."""
    found: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, str):
            found.update(re.findall(r"[a-z']+", value))
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                found.update([key])
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    collect({section: words for section, words in words_of_language("en").items() if section not in NAMES})
    return frozenset(found)


def translated(said: str) -> tuple[str, str]:
    """A text in English, and the name of its language if it is another one.

    It is taken for another language if that knows more of its words than English does.
    """
    said = unicodedata.normalize("NFC", said)
    code = spoken_language(said)
    return (_translate(said, code), words_of_language(code)["name"]) if code else (said, "")


def spoken_language(said: str) -> str:
    """The code of the language of a text; empty for English."""
    tokens = WORD.findall(unicodedata.normalize("NFC", said).lower())
    known = sum(token in all_words() for token in tokens)
    if known == len(tokens):
        return ""
    best, code = 0, ""
    for other in OTHERS:
        number = sum(folded(token) in _single_words(other) for token in tokens)
        if number > best:
            best, code = number, other
    return code if best > known or (best == known and not "".join(tokens).isascii()) else ""


def is_english(said: str) -> bool:
    """Whether a text may be English: another language knows fewer of its words, and does without the most frequent."""
    if spoken_language(said):
        return False
    tokens = WORD.findall(said.lower())
    known = sum(token in all_words() for token in tokens)
    return len(tokens) < FEWEST_WORDS or not ENGLISH_ONLY.isdisjoint(tokens) or 3 * known >= len(tokens)


def sentence(key: str, said: str, default: str) -> str:
    """One of our own sentences in the language of a text; the default if that is English."""
    code = spoken_language(said)
    return str(words_of_language(code)["answers"].get(key, default)) if code else default


@cache
def _single_words(code: str) -> frozenset[str]:
    """Words of the forms of one language."""
    file = words_of_language(code)
    forms = [form for section in ("verbs", "words") for forms in file[section].values() for form in forms]
    return frozenset(word for form in forms for word in WORD.findall(folded(form)))


def _translate(said: str, code: str) -> str:
    """Replace each form once; what was replaced is not read again."""
    done: list[str] = []
    said = rewritten(said, "rewrites", code)
    plain = folded(said)
    for entry in _entries(code):
        while match := entry.form.search(plain):
            gaps = [said[slice(*match.span(group))] for group in range(1, (match.lastindex or 0) + 1)]
            # What stands in a gap is translated in its turn.
            marks = []
            for part in entry.english.split("…"):
                done.append(part.strip())
                marks.append(f"\x00{len(done) - 1}\x00")
            words = f"{marks[0]}{''.join(gaps)} {' '.join(marks[1:])}"
            said = f"{said[: match.start()]}{words}{said[match.end() :]}"
            plain = folded(said)
    words = re.sub("\x00(\\d+)\x00", lambda mark: done[int(mark[1])], said)
    return " ".join(re.sub(r"[¿¡]|(?<!\w)'(?=\w)", "", words).split())
