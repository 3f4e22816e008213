"""Sentences that no result answers: who may do something, whether it is wise, and what would come of it.

About rights and about undoing, the refusal says what does answer. Advice is not given either, but how things are now is
shown, which a person needs to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.orchestrator.language.intent import forms_of, may_contain, verbs_of
from anvyl_mcp.orchestrator.language.lexicon import any_of, words_of_language
from anvyl_mcp.orchestrator.language.vocabulary import LEAD_IN
from anvyl_mcp.peers.connection.listing import ToolListing

_FORMS = words_of_language("en")["judgement"]
RIGHTS, ADVICE, UNDO = (re.compile(any_of(_FORMS[name]), re.IGNORECASE) for name in ("rights", "advice", "undo"))
OTHERS = re.compile(r"(?i)who\b")
BE_DONE = re.compile(r"\b(?:be|(?:get|have)\s+(?:\S+\s+){1,4}?)\s*$")
FACTS = "no rule can judge that or what would come of it; this is how things are now"


def subject_of(said: str, tools: Iterable[ToolListing]) -> str:
    """What a question for advice is about, without its beginning; empty if it is no such question.

    Raises:
        NotUnderstood: it is about rights, or an order to undo something.
    """
    lead = LEAD_IN.match(said)
    sentence = said[lead.end() if lead else 0 :].strip()
    if UNDO.match(sentence):
        raise NotUnderstood(
            "a change is undone with its own command", hint="undo the last start, stop or removal: anvyl undo"
        )
    rights, advice = RIGHTS.match(sentence), ADVICE.match(sentence)
    if rights and (OTHERS.match(sentence) or _changes(sentence[rights.end() :], tools)):
        raise NotUnderstood(
            "who may do what is kept on each host, where no tool here can read it",
            hint="on that host: anvyl-mcp token list, and for policy.toml: anvyl-mcp policy test",
        )
    rest = sentence[advice.end() :].strip() if advice else ""
    # `should be fine now, restart grafana` asks nothing.
    return f"is {rest}" if not rest.lower().startswith("be ") and _changes(rest, tools) else ""


def _changes(words: str, tools: Iterable[ToolListing]) -> bool:
    """Whether the words hold the verb of a change: `restart web`, `web be restarted`."""
    said = words.lower()
    for verb in {verb for tool in tools if not tool.reads for verb in verbs_of(tool)} - {"run"}:
        if not may_contain(said, verb):
            continue
        imperative, passive = forms_of(verb)
        if imperative.search(said) or any(BE_DONE.search(said[: done.start()]) for done in passive.finditer(said)):
            return True
    return False
