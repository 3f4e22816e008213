"""A frame: one order read for one tool, with its objects, values and hosts, and its unread words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.language import normalize, phrases
from anvyl_mcp.orchestrator.language.grounding import IMAGE, images_in
from anvyl_mcp.orchestrator.language.intent import forms_of, verbs_of
from anvyl_mcp.orchestrator.language.lexicon import english
from anvyl_mcp.orchestrator.language.stemming import stem, stems
from anvyl_mcp.orchestrator.language.vocabulary import (
    COUNTED,
    FILLERS,
    KINDS,
    LEAD_IN,
    MARK,
    is_name,
    kinds_said,
)
from anvyl_mcp.orchestrator.rules.orders import remarks, selection
from anvyl_mcp.orchestrator.rules.orders.parts import (
    IN_THESE_WORDS,
    LITERALLY,
    Frame,
    Part,
    noun_of,
)
from anvyl_mcp.orchestrator.rules.orders.selection import refused
from anvyl_mcp.orchestrator.rules.orders.values import OrderValues
from anvyl_mcp.orchestrator.rules.orders.words import Words
from anvyl_mcp.peers.connection.listing import ToolListing

WISHED = r"(?:\b(?:should|must|can|could|needs?\s+to|ha(?:s|ve)\s+to|want|like|need|have|get|to)\s+)?"
WISHES = english("words", "wishes")
"""Words around a verb in the passive: `i would like web restarted`."""


class Framer(OrderValues):
    """Reads orders for tools, and remembers what earlier orders of the same text were about."""

    @property
    def names_ordered(self) -> list[str]:
        """Objects of all orders so far."""
        return self._so_far

    def remember(self, frame: Frame, part: Part) -> None:
        """Keep what an order was about, for `it` and `there`."""
        listing = frame.listing
        self._last = [str(call[name]) for call in frame.calls for name in listing.names if name in call]
        self._so_far += self._last
        self._host = frame.host or self._host
        if not listing.names and (name := frame.calls[0].get("name")):
            self._made[noun_of(listing)] = str(name)

    def bound(self, words: str) -> str:
        """A question between orders, with `it` replaced by the last objects, and their host."""
        resolved = normalize.named(words, self._last or list(self._made.values()))
        host = self._host if resolved != words and not self.places_in(words) else ""
        return f"{resolved} on {host.replace(',', ' and ')}" if host else resolved

    def set_places(self, words: str) -> None:
        """Hosts for all orders, named apart from them: `both on gpu`."""
        self._places = self._places or self.places_in(words)

    def only_places(self, words: str) -> bool:
        """Whether a clause names nothing but hosts."""
        found = Words(words)
        self._take_hosts(found)
        found.take_words(FILLERS | COUNTED.keys() | {"all"}, "filler")
        return bool(self.places_in(words)) and not found.rest

    def unread(self, words: str) -> list[str]:
        """Words that are no host, name, kind or filler."""
        found = Words(words)
        self._take_hosts(found)
        for kind, objects in self._scene.objects.items():
            selection.literal_names(found, objects, kind)
        found.take(IMAGE, "image")
        found.take_words(
            FILLERS | COUNTED.keys() | {"all"} | {noun for kind in KINDS for noun in kinds_said(kind)}, "filler"
        )
        return [word for word in found.rest if not re.fullmatch(MARK, word)]

    def names_objects(self, words: str) -> bool:
        """Whether words name an existing object."""
        found = Words(words)
        return any(selection.literal_names(found, objects, kind) for kind, objects in self._scene.objects.items())

    def says_noun(self, listing: ToolListing, part: Part) -> bool:
        """Whether the words name the kind that a tool changes."""
        return stem(noun_of(listing)) in stems(part.text)

    def only_leads_in(self, part: Part) -> bool:
        """Whether the words only introduce orders, like `please tidy up:`."""
        tools = [one for one in self._scene.tools.values() if not one.reads and part.verbs & verbs_of(one)]
        choosing = all(any("enum" in one.arguments[name] for name in one.required) for one in tools)
        if not part.after or not choosing:
            return False
        words = Words(part.text)
        self._take_verbs(words, part.verbs)
        self._host = self._take_hosts(words)[0] or self._host
        words.take_words(FILLERS | {"some", "disk", "space", "room"}, "filler")
        return not words.rest

    def example(self, verbs: Iterable[str]) -> str:
        """Hint with a phrase of a tool with one of these verbs."""
        tools = [one for one in self._scene.tools.values() if not one.reads and set(verbs) & verbs_of(one)]
        return phrases.examples(tools or self._scene.tools.values(), " ".join(verbs))

    def frame(self, listing: ToolListing, part: Part) -> Frame | None:
        """Read an order for one tool; None if an argument is missing.

        Raises:
            AnvylError: what it names does not exist or is ambiguous, or there is nothing to do.
        """
        names = [name for kind in self._scene.objects for name in self._scene.names(kind)]
        text, why = remarks.without_reason(part.text, [*names, *images_in(part.text)])
        words = Words(text)
        if lead := LEAD_IN.match(words.left.lstrip()):
            start = len(words.left) - len(words.left.lstrip())
            words.take_span(start, start + lead.end(), "polite")
        says_noun = self.says_noun(listing, part)
        self._take_verbs(words, part.verbs & verbs_of(listing))
        given = self._take_pairs(listing, words)
        self._check_places(words)
        selector, having, both = self._take_hosts(words)
        selector = given.pop("host", selector)
        options = self._take_options(listing, words)
        weight = IN_THESE_WORDS * says_noun
        calls: list[dict[str, Any]] = [{}]
        for argument in listing.required:
            kind = listing.names.get(argument, "container")
            if argument in given and (kind == "container" or self._scene.may_name(kind, part.text)):
                found, plainly = [{argument: given[argument]}], LITERALLY
            elif argument in listing.names:
                found, plainly = self._objects(listing, argument, part, words, selector, having=having)
            else:
                found, plainly = self._value(listing, argument, part, words, says_noun=says_noun)
            if not found or (len(found) > 1 and len(listing.names) > 1):
                return None
            weight += plainly
            calls = [{**call, **one} for call in calls for one in found]
        calls = [{**options, **call} for call in calls]
        calls, host = self._placed(listing, calls, part, selector, having=having, both=both)
        self._check_number(words, calls)
        left, unread = self._left(listing, words, calls, why)
        weight += sum(len(verb) for verb in words.by("verb")) / 100
        return Frame(listing, calls, weight, left, unread, why, host)

    def _take_verbs(self, words: Words, verbs: Iterable[str]) -> None:
        forms = [forms_of(verb) for verb in sorted(verbs)]
        found = [words.take(re.compile(imperative.pattern, re.IGNORECASE), "verb") for imperative, _ in forms]
        if any(found):
            if {"start", "stop"} & set(verbs):
                words.take(r"\b(?:back|up|online|again)\b(?=\W*$|\s+(?:on|at|again|please|now)\b)", "verb")
            return
        for _, passive in forms:
            words.take(rf"{WISHED}(?:\bbe\s+)?{passive.pattern}", "verb")
            words.take_words(WISHES, "verb")

    def _check_places(self, words: Words) -> None:
        """Check that an order names its hosts once.

        Raises:
            NotUnderstood: they contradict each other: `nas: stop web on gpu`.
        """
        found = [match[0] for match in self._scene.places.pattern().finditer(words.left)]
        found = [said for said in found if self.places_in(said)]
        if len({self.places_in(said) for said in found}) > 1 or re.search(r"(?i)\b(?:or|either)\b", " ".join(found)):
            raise refused(found[-1], "it is not clear where")
        if found and self._places and self.places_in(found[0]) != self._places:
            raise refused(found[0], "it is not clear where")

    def _check_number(self, words: Words, calls: Sequence[Mapping[str, Any]]) -> None:
        """Read a number of objects if it is right."""
        spread = sum(len(str(call.get("host", "-")).split(",")) for call in calls)
        for match in list(re.finditer(r"(?i)(?<![\w.:-])(?:both|two|three|four|five|[2-5])(?![\w.:-])", words.left)):
            if COUNTED[match[0].lower()] in {len(calls), spread}:
                words.take_span(match.start(), match.end(), "number")

    def _left(
        self, listing: ToolListing, words: Words, calls: Sequence[Mapping[str, Any]], why: list[str]
    ) -> tuple[list[str], str]:
        """Unread words of an order, and the text with all others blanked out."""
        kinds = {*listing.names.values(), *listing.required, noun_of(listing)}
        used = {noun for kind in kinds for noun in kinds_said(kind)}
        words.left = re.sub(r"(?i)(?<=\w)'s\b|(?<!\w)'s\b", lambda match: " " * len(match[0]), words.left)
        words.left = remarks.HARMLESS.sub(lambda match: " " * len(match[0]), words.left)
        trial = Words(words.left)
        trial.take_words(FILLERS | used, "filler")
        if (
            trial.rest
            and (purpose := remarks.purpose_in(words.left))
            and not remarks.name_said(
                purpose[0], [name for kind in self._scene.objects for name in self._scene.names(kind)]
            )
        ):
            said = words.said[purpose.start() : purpose.end()].strip(" .!")
            why.append(said)
            words.take_span(purpose.start(), purpose.end(), "purpose")
            trial = Words(words.left)
            trial.take_words(FILLERS | used, "filler")
        # `the shop worker`: a word that also means the object, by its image or a part of its name.
        about = [(kind, str(call[name])) for call in calls for name, kind in listing.names.items() if name in call]
        for kind, name in about:
            for word in trial.rest:
                like = {one.name for one in resolve.best_matches([word.lower()], self._scene.of(kind))}
                if name in like and is_name(word):
                    trial.take_words({word.lower()}, "name")
        for adverb in re.finditer(r"(?i)\b[a-z]{3,}ly\b", trial.left):
            if adverb[0].lower() not in ("only", "early", "daily", "weekly", "monthly", "hourly", "nightly", "yearly"):
                trial.take_span(adverb.start(), adverb.end(), "manner")
                why.append(adverb[0])
        return trial.rest, trial.left
