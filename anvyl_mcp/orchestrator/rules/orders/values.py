"""Values of an order that name no existing object: options, images, new names, commands."""

from __future__ import annotations

import re
from typing import Any

from anvyl_mcp.orchestrator.language.argument_phrases import take_options
from anvyl_mcp.orchestrator.language.grounding import images_in
from anvyl_mcp.orchestrator.language.intent import words_after
from anvyl_mcp.orchestrator.language.normalize import unmask
from anvyl_mcp.orchestrator.language.stemming import stem, stems
from anvyl_mcp.orchestrator.language.vocabulary import FREE_TEXT, MARK, NAME, is_name, meaning
from anvyl_mcp.orchestrator.rules.orders.hosts import take_hosts
from anvyl_mcp.orchestrator.rules.orders.objects import NOTHING, Found
from anvyl_mcp.orchestrator.rules.orders.order import BEFORE, IN_THESE_WORDS, IT, NEARLY, Order, noun_of
from anvyl_mcp.orchestrator.rules.orders.words import Words

CALLED = re.compile(
    rf"(?i)\b(?:called|named|(?:name|call)\s+(?:it|that|this)|by\s+the\s+name(?:\s+of)?|as)\s+(?:as\s+)?(?P<name>{NAME})"
)
ITS_VOLUMES = re.compile(
    r"(?i)(?:\b(?P<keep>keeping)|\b(?:and|plus|with|including)(?:\s+also|\s+all)?)"
    r"\s+(?:of\s+)?(?:its|their)\s+(?:volumes?|data)(?:\s+(?:too|as\s+well))?\b"
)
"""Whether the volumes of a stack go or stay: `including its volumes`, `but keep its data`."""
CONTAINER_FROM = re.compile(rf"(?i)\bcontainer\s+(?P<name>{NAME})(?=\s+from\b)")
IMAGE_AFTER = re.compile(rf"(?i)\b(?:image|from(?:\s+image)?)\s+(?:the\s+)?(?P<image>{NAME})")
IMAGE_BEFORE = re.compile(rf"(?i)(?P<image>{NAME})\s+(?:as|container)\b")
IMAGE_VERBS = frozenset({"run", "pull"})


def take_pairs(order: Order) -> dict[str, str]:
    """Read required arguments and the host given as `name=web host=nas`."""
    given: dict[str, str] = {}
    for match in re.finditer(rf"(?<!\S)(?P<key>\w+)=(?P<value>{MARK}|\S+)", order.words.left):
        if match["key"] == "host" or match["key"] in order.listing.required:
            given[match["key"]] = unmask(match["value"], order.memory.quoted)
            order.words.take_span(match.start(), match.end(), "option")
    return given


def take_optional(order: Order) -> dict[str, Any]:
    """Read the options of a tool."""
    listing, words, quoted = order.listing, order.words, order.memory.quoted
    optional = {name: schema for name, schema in listing.arguments.items() if name not in listing.required}
    its_volumes = ITS_VOLUMES.search(words.left) if optional.get("volumes", {}).get("type") == "boolean" else None
    if its_volumes:
        words.take_span(*its_volumes.span(), "option")
    words.left, values = take_options(words.left, optional, quoted, listing.names)
    values.pop("host", None)
    if its_volumes:
        values["volumes"] = not its_volumes["keep"]
    if "name" in optional and (match := CONTAINER_FROM.search(words.left) or CALLED.search(words.left)):
        values["name"] = unmask(match["name"], quoted)
        words.take_span(*(match.span("name") if match.re is CONTAINER_FROM else match.span()), "name")
    return values


def take_value(order: Order, argument: str) -> Found:
    """Read a value that is no existing object: an image, a new name, a choice, a quoted command."""
    words, quoted = order.words, order.memory.quoted
    if argument == "image":
        return _image(order, argument)
    if choices := order.listing.arguments[argument].get("enum", ()):
        return _choice(order, argument, choices)
    if argument in FREE_TEXT and len(commands := re.findall(MARK, words.left)) == 1:
        words.take(commands[0], "command")
        words.take_words({"command", "inside", "within"}, "command")
        return [{argument: unmask(commands[0], quoted)}], 0
    if argument == "name" and says_noun(order):
        for pattern in (CALLED, re.compile(rf"(?i)\b{noun_of(order.listing)}\s+(?P<name>{NAME})")):
            if (match := pattern.search(words.left)) and is_name(match["name"]):
                words.take_span(*match.span("name"), "name")
                words.take_words({"called", "named", "name", "call"}, "name")
                return [{argument: unmask(match["name"], quoted)}], NEARLY
    return NOTHING


def says_noun(order: Order) -> bool:
    """Whether the words name the kind that a tool changes."""
    return stem(noun_of(order.listing)) in stems(order.part.text)


def _choice(order: Order, argument: str, choices: list[str]) -> Found:
    words = order.words
    said = [one for one in choices if set(stems(one.replace("_", " "))) <= set(stems(words.left))]
    if not said or not (says_noun(order) or meaning(order.verb) in order.part.verbs):
        return NOTHING
    spaced = re.escape(said[0]).replace("_", "[ _-]+")
    words.take(rf"\b(?:(?:unused|dangling|old|some|disk|stopped|exited|dead)\s+)*{spaced}s?\b", "choice")
    words.take_words(stems(said[0].replace("_", " ")), "choice")
    return [{argument: said[0]}], NEARLY


def _image(order: Order, argument: str) -> Found:
    words, part = order.words, order.part
    said = images_in(words.left) or (images_in(part.before) if IT.search(words.left) else [])
    if said:
        words.take(re.compile(re.escape(said[0])), "image")
        return ([{argument: said[0]}], IN_THESE_WORDS) if len(said) == 1 else NOTHING
    verbs = part.verbs if says_noun(order) else part.verbs & IMAGE_VERBS
    spoken = Words(part.text)
    take_hosts(spoken, order.scene)
    spoken.take(r"\b(?:image|container|from|of)\b", "filler")
    bare = [word for word in words_after(spoken.left, verbs)[:1] if is_name(word)]
    for pattern, said_at in ((IMAGE_AFTER, words.left), (IMAGE_BEFORE, part.text)):
        match = pattern.search(said_at)
        if match and is_name(match["image"]) and (not bare or pattern is IMAGE_AFTER):
            bare = [match["image"]]
    if not bare or bare[0].lower() in FREE_TEXT or bare[0] in order.scene.names():
        return NOTHING
    words.take_words({bare[0].lower()}, "image")
    return [{argument: unmask(bare[0], order.memory.quoted)}], BEFORE
