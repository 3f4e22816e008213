"""Changes to all of a kind, worked out from the words of the person: `stop all web containers`.

A model that is asked for such a change names one of them, or none. Only what is understood to the last word is spread;
the rest stays as it is, and is asked about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NothingToDo
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.checks.resolve import Found, states_said
from anvyl_mcp.orchestrator.language.grounding import named, words_of
from anvyl_mcp.orchestrator.language.vocabulary import EMPTY, REFUSING, STANDS_FOR, STATES, meaning
from anvyl_mcp.peers.connection.listing import ToolListing

HOSTS = re.compile(
    r"\b(?:on|at|across|from|in)?\s*(?:all|every|each|both)(?:\s+of)?(?:\s+(?:the|my|our))?\s+(?:hosts?|machines?|servers?)\b"
    r"|\beverywhere\b|\bacross the (?:whole )?fleet\b",
    re.IGNORECASE,
)
EVERYTHING = re.compile(r"\b(?:everything|all of them|them all|all|every|each|both)\b", re.IGNORECASE)
CALLED_ALL = r"\b{kind}\s+(?:named\s+|called\s+)?(?:everything|all|every|each|both)\b"
"""One thing that has such a word for its name: `stop the container all`."""
SAID_BESIDES = re.compile(
    r"everything|them|they|ones?|that|which|are|is|currently|right|now|please|also|then|every|each|all|both|any(?:thing)?"
    r"|whatever|still|again|back|should|come|go(?:ing)?|take|bring|get|put|give|run(?:s|ning)?|stop(?:ped)?|start|with|named|called"
)
UP, DOWN = ("running", "restarting", "paused"), ("exited", "created", "dead")
NEEDED_STATE = {"stop": UP, "restart": UP, "kill": UP, "pause": UP, "start": (*DOWN, "paused")}
"""What a container must be in for a change to all to mean it, by the verb. Somebody stopped what is stopped, so it is
not restarted with the others unless the words say so.
"""
INCLUDING = re.compile(
    r"\b(?:(?:includ(?:ing|es?)|incl\.?|even|also|plus|with|and)\s+(?:of\s+|all\s+|the\s+)*(?:stopped|exited|dead)"
    r"(?:\s+(?:ones?|containers?))?(?:\s+(?:too|as\s+well))?"
    r"|(?:running|up)\s+(?:or|and)\s+(?:stopped|not\s+running|down))\b",
    re.IGNORECASE,
)
"""Adds the stopped ones to all."""
ADDED = re.compile(rf",\s*(?P<included>{INCLUDING.pattern})\s*(?:,|(?=[.!]*$)|(?=(?:on|at|in)\s))", re.IGNORECASE)


def spread(
    listing: ToolListing,
    kind: str,
    said: str,
    objects: Sequence[Found],
    hosts: Sequence[str],
    verbs: frozenset[str],
    *,
    where: Sequence[str] = (),
) -> list[Found]:
    """The objects that a change to all of a kind means; empty when the words are no such thing, or not clear.

    Raises:
        NothingToDo: the words are clear, and none of the objects on the hosts `where` needs it.
    """
    if REFUSING.search(said) or not of_all(said, kind):
        return []
    included, said = INCLUDING.search(said), INCLUDING.sub(" ", said)
    states = states_said(said)
    verb = listing.name.partition("_")[0]
    needed = NEEDED_STATE.get(verb, ()) if kind == "container" else ()
    if (included or states) and verb != "stop":
        needed = ()
    found = [one for one in objects if not states or states & set(resolve.state_of(one))]
    words = _left_over(said, kind, hosts, verbs)
    groups = [resolve.meant([word], found) for word in words]
    if not all(groups):
        return []
    if groups:
        found = [one for one in found if any(one in group for group in groups)]
    elif not states and listing.safety == "destroys":
        return []
    meant = [one for one in found if not needed or one.row.get("state") in needed]
    if not meant and (states or needed):
        state = text.join_names(sorted(states & STATES.keys())) or ("running" if needed == UP else "stopped")
        raise NothingToDo(f"Nothing to {verb}: there are no {state} {kind}s on {text.join_names(where or hosts)}")
    return meant


def with_included(said: str) -> str:
    """An order whose words that add the stopped ones stand between no commas, since they are part of its clause."""
    return ADDED.sub(r" \g<included> ", said)


def without_included(said: str) -> str:
    """An order to all without the words that add the stopped ones."""
    return INCLUDING.sub(" ", said) if of_all(said, "container") else said


def of_all(said: str, kind: str) -> bool:
    """Whether a sentence speaks of all of a kind, not of all hosts."""
    rest = re.sub(CALLED_ALL.format(kind=kind), " ", HOSTS.sub(" ", said), flags=re.IGNORECASE)
    return bool(EVERYTHING.search(rest)) or named(rest, f"{kind}s")


def _left_over(said: str, kind: str, hosts: Sequence[str], verbs: frozenset[str]) -> list[str]:
    """The words that must mean objects: no verb, no host, no state, no word for all."""
    doing: Mapping[str, str] = {**STANDS_FOR, **{verb: verb for verb in verbs}}
    rest = HOSTS.sub(" ", said)
    places = {host.lower() for host in hosts}
    states = {word for name, values in STATES.items() for word in (name, *values)}
    return [
        word
        for word in words_of(rest)
        if word not in EMPTY | places | states
        and not SAID_BESIDES.fullmatch(word)
        and meaning(word) != kind
        and doing.get(word, doing.get(meaning(word))) not in verbs
        and not word.startswith("@")
    ]
