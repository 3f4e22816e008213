"""The words of a sentence, each of which remembers who has read it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from anvyl_mcp.orchestrator.language.vocabulary import MARK

WORD = re.compile(rf"{MARK}|[^\W_@][^\s,;!?()\"]*|@[\w.-]+")


@dataclass(frozen=True)
class Taken:
    """A part of the sentence, and who read it: `verb`, `host`, `name`, `option`, `remark` and so on."""

    words: str
    by: str


class Words:
    """A text. What somebody reads is blanked out in `left`, so positions stay and nothing is read twice."""

    def __init__(self, said: str) -> None:
        self.said = said
        self.left = said
        self.taken: list[Taken] = []

    def take(self, pattern: str | re.Pattern[str], by: str) -> list[re.Match[str]]:
        """Read every match; plain groups stay, those with a name are read too."""
        found = list((re.compile(pattern, re.IGNORECASE) if isinstance(pattern, str) else pattern).finditer(self.left))
        for match in found:
            named = {match.span(name) for name in match.re.groupindex}
            kept = {match.span(group) for group in range(1, match.re.groups + 1)} - named - {(-1, -1)}
            start = match.start()
            for begin, end in sorted(kept):
                self.take_span(start, begin, by)
                start = max(start, end)
            self.take_span(start, match.end(), by)
        return found

    def take_span(self, start: int, end: int, by: str) -> None:
        """Read a part of the text."""
        if words := self.left[start:end].strip():
            self.taken.append(Taken(words, by))
        self.left = self.left[:start] + " " * (end - start) + self.left[end:]

    def take_words(self, known: Iterable[str], by: str) -> None:
        """Read all words of a set."""
        known = frozenset(known)
        for match in WORD.finditer(self.left):
            if match[0].lower().rstrip(".:/'-") in known:
                self.take_span(match.start(), match.end(), by)

    def without(self, known: Iterable[str]) -> Words:
        """The words left, to be tried, without those of a set."""
        trial = Words(self.left)
        trial.take_words(known, "filler")
        return trial

    @property
    def rest(self) -> list[str]:
        """Words that no reader took."""
        return [word for one in WORD.finditer(self.left) if (word := one[0].rstrip(".:/'-"))]

    def by(self, who: str) -> list[str]:
        """What one reader has read."""
        return [one.words for one in self.taken if one.by == who]
