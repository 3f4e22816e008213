"""Expands changes to several objects of a kind, like `stop all web containers`, from the words of the question.

A model usually names one of the objects, or none. Only phrases in which every word is understood are expanded; other
calls stay as the model made them, and the user is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NothingToDo
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.checks.resolve import FleetObject, states_in
from anvyl_mcp.orchestrator.language.grounding import words_of
from anvyl_mcp.orchestrator.language.places import named
from anvyl_mcp.orchestrator.language.vocabulary import EMPTY, REFUSING, STANDS_FOR, STATES, meaning
from anvyl_mcp.peers.connection.listing import ToolListing

HOSTS = re.compile(
    r"\b(?:on|at|across|from|in)?\s*(?:all|every|each|both)(?:\s+of)?(?:\s+(?:the|my|our))?\s+(?:hosts?|machines?|servers?)\b"
    r"|\beverywhere\b|\bacross the (?:whole )?fleet\b",
    re.IGNORECASE,
)
EVERYTHING = re.compile(r"\b(?:everything|all of them|them all|all|every|each|both)\b", re.IGNORECASE)
NAMED_ALL = r"\b{kind}\s+(?:named\s+|called\s+)?(?:everything|all|every|each|both)\b"
"""One object whose name is such a word: `stop the container all`."""
FILLERS = re.compile(
    r"everything|them|they|ones?|that|which|are|is|currently|right|now|please|also|then|every|each|all|both|any(?:thing)?"
    r"|whatever|still|again|back|should|come|go(?:ing)?|take|bring|get|put|give|run(?:s|ning)?|stop(?:ped)?|start|with|named|called"
)
UP, DOWN = ("running", "restarting", "paused"), ("exited", "created", "dead")
NEEDED_STATE = {"stop": UP, "restart": UP, "kill": UP, "pause": UP, "start": (*DOWN, "paused")}
"""States of the containers that a change to all includes, by verb. Stopped containers are usually stopped on purpose,
so they are not restarted with the others unless the question says so.
"""
INCLUDING = re.compile(
    r"\b(?:(?:includ(?:ing|es?)|incl\.?|even|also|plus|with|and)\s+(?:of\s+|all\s+|the\s+)*(?:stopped|exited|dead)"
    r"(?:\s+(?:ones?|containers?))?(?:\s+(?:too|as\s+well))?"
    r"|(?:running|up)\s+(?:or|and)\s+(?:stopped|not\s+running|down))\b",
    re.IGNORECASE,
)
"""Includes stopped containers in a change to all."""
INCLUDING_IN_COMMAS = re.compile(
    rf",\s*(?P<included>{INCLUDING.pattern})\s*(?:,|(?=[.!]*$)|(?=(?:on|at|in)\s))", re.IGNORECASE
)


def expand(
    listing: ToolListing,
    kind: str,
    said: str,
    objects: Sequence[FleetObject],
    hosts: Sequence[str],
    verbs: frozenset[str],
    *,
    where: Sequence[str] = (),
) -> list[FleetObject]:
    """The objects that a change to all of a kind applies to; empty if the text is not such a change, or not clear.

    Raises:
        NothingToDo: the text is clear, and no object on the hosts `where` needs the change.
    """
    if REFUSING.search(said) or not is_about_all(said, kind):
        return []
    included, said = INCLUDING.search(said), INCLUDING.sub(" ", said)
    states = states_in(said)
    verb = listing.name.partition("_")[0]
    needed = NEEDED_STATE.get(verb, ()) if kind == "container" else ()
    if (included or states) and verb != "stop":
        needed = ()
    matching = [one for one in objects if not states or states & resolve.states_of(one)]
    words = _object_words(said, kind, hosts, verbs)
    groups = [resolve.best_matches([word], matching) for word in words]
    if not all(groups):
        return []
    if groups:
        matching = [one for one in matching if any(one in group for group in groups)]
    elif not states and listing.safety == "destroys":
        return []
    affected = [one for one in matching if not needed or one.row.get("state") in needed]
    if not affected and (states or needed):
        state = text.join_names(sorted(states & STATES.keys())) or ("running" if needed == UP else "stopped")
        raise NothingToDo(f"Nothing to {verb}: there are no {state} {kind}s on {text.join_names(where or hosts)}")
    return affected


def join_inclusion(said: str) -> str:
    """The text without commas around words like `including stopped ones`, which belong to the clause before them."""
    return INCLUDING_IN_COMMAS.sub(r" \g<included> ", said)


def without_inclusion(said: str) -> str:
    """The text without words like `including stopped ones`, if it is about all containers."""
    return INCLUDING.sub(" ", said) if is_about_all(said, "container") else said


def is_about_all(said: str, kind: str) -> bool:
    """Whether a sentence is about all objects of a kind; `all hosts` does not count."""
    rest = re.sub(NAMED_ALL.format(kind=kind), " ", HOSTS.sub(" ", said), flags=re.IGNORECASE)
    return bool(EVERYTHING.search(rest)) or named(rest, f"{kind}s")


def _object_words(said: str, kind: str, hosts: Sequence[str], verbs: frozenset[str]) -> list[str]:
    """The words that must refer to objects, because they are no verb, host, state or filler."""
    verb_of: Mapping[str, str] = {**STANDS_FOR, **{verb: verb for verb in verbs}}
    rest = HOSTS.sub(" ", said)
    host_names = {host.lower() for host in hosts}
    states = {word for name, values in STATES.items() for word in (name, *values)}
    return [
        word
        for word in words_of(rest)
        if word not in EMPTY | host_names | states
        and not FILLERS.fullmatch(word)
        and meaning(word) != kind
        and verb_of.get(word, verb_of.get(meaning(word))) not in verbs
        and not word.startswith("@")
    ]
