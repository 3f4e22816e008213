"""Values of an order that name no existing object: options, images, new names, commands."""

from __future__ import annotations

import re
from typing import Any

from anvyl_mcp.orchestrator.language.argument_phrases import take_options
from anvyl_mcp.orchestrator.language.grounding import images_in
from anvyl_mcp.orchestrator.language.intent import words_after
from anvyl_mcp.orchestrator.language.normalize import unmask
from anvyl_mcp.orchestrator.language.stemming import stems
from anvyl_mcp.orchestrator.language.vocabulary import (
    FREE_TEXT,
    MARK,
    NAME,
    is_name,
    meaning,
)
from anvyl_mcp.orchestrator.rules.orders.objects import OrderObjects
from anvyl_mcp.orchestrator.rules.orders.parts import (
    BEFORE,
    CALLED,
    IMAGE_VERBS,
    IN_THESE_WORDS,
    IT,
    NEARLY,
    Part,
    noun_of,
)
from anvyl_mcp.orchestrator.rules.orders.words import Words
from anvyl_mcp.peers.connection.listing import ToolListing


class OrderValues(OrderObjects):
    """Reads values."""

    def _take_pairs(self, listing: ToolListing, words: Words) -> dict[str, str]:
        """Read required arguments and the host given as `name=web host=nas`."""
        given: dict[str, str] = {}
        for match in re.finditer(rf"(?<!\S)(?P<key>\w+)=(?P<value>{MARK}|\S+)", words.left):
            if match["key"] == "host" or match["key"] in listing.required:
                given[match["key"]] = unmask(match["value"], self._quoted)
                words.take_span(match.start(), match.end(), "option")
        return given

    def _take_options(self, listing: ToolListing, words: Words) -> dict[str, Any]:
        """Read the options of a tool."""
        optional = {name: schema for name, schema in listing.arguments.items() if name not in listing.required}
        left, values = take_options(words.left, optional, self._quoted, listing.names)
        words.left = left
        values.pop("host", None)
        if "name" in optional and (match := re.search(rf"(?i)\bcontainer\s+(?P<name>{NAME})(?=\s+from\b)", words.left)):
            values["name"] = unmask(match["name"], self._quoted)
            words.take_span(*match.span("name"), "name")
        if "name" in optional and "name" not in values:
            for match in words.take(CALLED, "name"):
                values["name"] = unmask(match["name"], self._quoted)
        return values

    def _value(
        self, listing: ToolListing, argument: str, part: Part, words: Words, *, says_noun: bool
    ) -> tuple[list[dict[str, Any]], float]:
        """Value that is not an existing object: an image, a new name, a choice, a quoted command."""
        choices = listing.arguments[argument].get("enum", ())
        if argument == "image":
            return self._image(argument, part, words, says_noun=says_noun)
        if choices:
            asked = says_noun or meaning(listing.name.partition("_")[0]) in part.verbs
            said = [one for one in choices if set(stems(one.replace("_", " "))) <= set(stems(words.left))]
            if asked and said:
                words.left = re.sub(
                    rf"(?i)\b(?:(?:unused|dangling|old|some|disk)\s+)*{re.escape(said[0]).replace('_', '[ _-]+')}s?\b",
                    lambda match: " " * len(match[0]),
                    words.left,
                )
                words.take_words(stems(said[0].replace("_", " ")), "choice")
            return ([{argument: said[0]}], NEARLY) if asked and said else ([], 0)
        if argument in FREE_TEXT:
            quoted = re.findall(MARK, words.left)
            if len(quoted) != 1:
                return [], 0
            words.take(quoted[0], "command")
            words.take_words({"command", "inside", "within"}, "command")
            return [{argument: unmask(quoted[0], self._quoted)}], 0
        if argument == "name" and says_noun:
            for pattern in (CALLED, re.compile(rf"(?i)\b{noun_of(listing)}\s+(?P<name>{NAME})")):
                if (match := pattern.search(words.left)) and is_name(match["name"]):
                    words.take_span(*match.span("name"), "name")
                    words.take_words({"called", "named", "name", "call"}, "name")
                    return [{argument: unmask(match["name"], self._quoted)}], NEARLY
        return [], 0

    def _image(self, argument: str, part: Part, words: Words, *, says_noun: bool) -> tuple[list[dict[str, Any]], float]:
        said = images_in(words.left) or (images_in(part.before) if IT.search(words.left) else [])
        if said:
            words.take(re.compile(re.escape(said[0])), "image")
            return ([{argument: said[0]}], IN_THESE_WORDS) if len(said) == 1 else ([], 0)
        verbs = part.verbs & (IMAGE_VERBS | (part.verbs if says_noun else frozenset()))
        lower = Words(part.text)
        self._take_hosts(lower)
        bare = [
            word
            for word in words_after(re.sub(r"(?i)\b(?:image|container|from|of)\b", " ", lower.left), verbs)[:1]
            if is_name(word)
        ]
        if (
            (match := re.search(rf"(?i)\b(?:image|from(?:\s+image)?)\s+(?:the\s+)?(?P<image>{NAME})", words.left))
            and is_name(match["image"])
        ) or (
            not bare
            and (match := re.search(rf"(?i)(?P<image>{NAME})\s+(?:as|container)\b", part.text))
            and is_name(match["image"])
        ):
            bare = [match["image"]]
        if not bare or bare[0].lower() in {"command", *FREE_TEXT} or (set(bare) & set(self._scene.names())):
            return [], 0
        words.take_words({bare[0].lower()}, "image")
        return [{argument: unmask(bare[0], self._quoted)}], BEFORE
