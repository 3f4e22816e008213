"""A frame: one order read for one tool, with its objects, values and hosts, and its unread words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.language.grounding import images_in
from anvyl_mcp.orchestrator.language.intent import forms_of, verbs_of
from anvyl_mcp.orchestrator.language.lexicon import english
from anvyl_mcp.orchestrator.language.vocabulary import COUNTED, FILLERS, LEAD_IN, is_name, kinds_said
from anvyl_mcp.orchestrator.rules.orders import hosts, objects, remarks, values
from anvyl_mcp.orchestrator.rules.orders.order import IN_THESE_WORDS, LITERALLY, Memory, Order, Part, noun_of
from anvyl_mcp.orchestrator.rules.orders.remarks import refused
from anvyl_mcp.orchestrator.rules.orders.words import Words
from anvyl_mcp.peers.connection.listing import ToolListing

WISHED = r"(?:\b(?:should|must|can|could|needs?\s+to|ha(?:s|ve)\s+to|want|like|need|have|get|to)\s+)?"
WISHES = english("words", "wishes")
"""Words around a verb in the passive: `i would like web restarted`."""
TIMES = frozenset({"only", "early", "daily", "weekly", "monthly", "hourly", "nightly", "yearly"})
"""Adverbs that say more than how."""


def read_frame(listing: ToolListing, part: Part, memory: Memory) -> Order | None:
    """Read an order for one tool; None if an argument is missing.

    Raises:
        AnvylError: what it names does not exist or is ambiguous, or there is nothing to do.
    """
    names = memory.scene.all_names
    said, why = remarks.without_reason(part.text, [*names, *images_in(part.text)])
    words = Words(said)
    if lead := LEAD_IN.match(words.left.lstrip()):
        start = len(words.left) - len(words.left.lstrip())
        words.take_span(start, start + lead.end(), "polite")
    order = Order(listing, part, words, memory, ignored=why)
    take_verbs(words, part.verbs & verbs_of(listing))
    given = values.take_pairs(order)
    _check_places(order)
    scope = hosts.take_hosts(words, memory.scene)
    order.scope = replace(scope, selector=given.pop("host", scope.selector))
    options = values.take_optional(order)
    order.weight = IN_THESE_WORDS * values.says_noun(order)
    order.calls = [options]
    for argument in listing.required:
        kind = listing.names.get(argument, "container")
        if argument in given and (kind == "container" or memory.scene.may_name(kind, part.text)):
            found, fits = [{argument: given[argument]}], LITERALLY
        elif argument in listing.names:
            found, fits = objects.take_objects(order, argument)
        else:
            found, fits = values.take_value(order, argument)
        if not found or (len(found) > 1 and len(listing.names) > 1):
            return None
        order.weight += fits
        order.calls = [{**call, **one} for call in order.calls for one in found]
    hosts.place(order)
    _take_number(order)
    _set_aside(order)
    order.weight += sum(len(verb) for verb in words.by("verb")) / 100
    return order


def take_verbs(words: Words, verbs: Iterable[str]) -> None:
    """Read the verbs of an order, in the imperative or in the passive."""
    forms = [forms_of(verb) for verb in sorted(verbs)]
    imperatives = [re.compile(imperative.pattern, re.IGNORECASE) for imperative, _ in forms]
    # `shut down` before `shut`
    imperatives.sort(key=lambda one: -max((len(match[0]) for match in one.finditer(words.left)), default=0))
    if [match for imperative in imperatives for match in words.take(imperative, "verb")]:
        if {"start", "stop"} & set(verbs):
            words.take(r"\b(?:back|up|online|again)\b(?=\W*$|\s+(?:on|at|again|please|now)\b)", "verb")
        return
    for _, passive in forms:
        words.take(rf"{WISHED}(?:\bbe\s+)?{passive.pattern}", "verb")
        words.take_words(WISHES, "verb")


def _check_places(order: Order) -> None:
    """Check that an order names its hosts once.

    Raises:
        NotUnderstood: they contradict each other: `nas: stop web on gpu`.
    """
    scene, places = order.scene, order.memory.places
    found = [match[0] for match in scene.places.pattern().finditer(order.words.left) if hosts.hosts_in(match[0], scene)]
    wanted = {hosts.hosts_in(said, scene) for said in found} | ({places} if found and places else set())
    if len(wanted) > 1 or re.search(r"(?i)\b(?:or|either)\b", " ".join(found)):
        raise refused(found[-1], "it is not clear where")


def _take_number(order: Order) -> None:
    """Read a number of objects if it is right."""
    right = {len(order.calls), sum(len(str(call.get("host", "-")).split(",")) for call in order.calls)}
    for match in re.finditer(r"(?i)(?<![\w.:-])(?:both|two|three|four|five|[2-5])(?![\w.:-])", order.words.left):
        if COUNTED[match[0].lower()] in right:
            order.words.take_span(match.start(), match.end(), "number")


def _set_aside(order: Order) -> None:
    """Read what changes nothing: remarks, a purpose, other words for the objects, manners. The rest stays unread."""
    words, listing = order.words, order.listing
    kinds = {*listing.names.values(), *listing.required, noun_of(listing)}
    used = FILLERS | {noun for kind in kinds for noun in kinds_said(kind)}
    words.take(r"(?<!\w)'s\b|(?<=\w)'s\b", "filler")
    words.take(remarks.HARMLESS, "remark")
    purpose = remarks.purpose_in(words.left) if words.without(used).rest else None
    if purpose and not remarks.name_said(purpose[0], order.scene.all_names):
        order.ignored.append(words.said[purpose.start() : purpose.end()].strip(" .!"))
        words.take_span(purpose.start(), purpose.end(), "purpose")
    words.take_words(used, "filler")
    # `the shop worker`: a word that also means the object, by its image or a part of its name.
    about = [(kind, str(call[name])) for call in order.calls for name, kind in listing.names.items() if name in call]
    for word in words.rest:
        like = [
            (kind, one.name) for kind, _ in about for one in resolve.best_matches([word.lower()], order.scene.of(kind))
        ]
        if is_name(word) and set(like) & set(about):
            words.take_words({word.lower()}, "name")
    for adverb in re.finditer(r"(?i)\b[a-z]{3,}ly\b", words.left):
        if adverb[0].lower() not in TIMES:
            words.take_span(adverb.start(), adverb.end(), "manner")
            order.ignored.append(adverb[0])
    order.left, order.unread = words.rest, words.left
