"""Complete follow-up questions, like `restart it` or `and the other one?`, from the questions before them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language import normalize
from anvyl_mcp.orchestrator.language.lexicon import spoken_language
from anvyl_mcp.orchestrator.language.places import EVERY, said_hosts

BEFORE = r"(?:(?:and|but|now|then|no|sorry|i\s+meant?|please)[,\s]+)*(?:(?:what|how)\s+about\s+)?"
AFTER = r"(?:[\s,]+(?:too|as\s+well|also|instead|please))*\s*[?.!]*"
AGAIN = r"(?:(?:please\s+)?do\s+)?(?:that|it|this|(?:the\s+)?same)(?:\s+(?:thing|again))?\s+"
SAME_ON_HOSTS = re.compile(rf"(?i){BEFORE}(?:{AGAIN})?(?:on|at|in|for)?\s*(?P<hosts>[@\w., -]+?){AFTER}")
"""`and on gpu?`, `what about nas`, `the same on all`, `do that on nas too`, `no, nas`."""
OTHER_HOST = re.compile(
    rf"(?i){BEFORE}(?:{AGAIN})?(?:(?:on|at|in|for)?\s*the\s+other\s+(?:host|machine|server|box|computer)"
    rf"|(?:on|at)\s+the\s+other(?:\s+one)?){AFTER}"
)
SAME_FOR_NAME = re.compile(
    rf"(?i){BEFORE}(?:{AGAIN}(?:with|for|to)|not\s+(?:that|this)(?:\s+one)?\s*,)\s+(?:the\s+)?"
    rf"(?!(?:please|instead|thanks|thank)\b)(?P<name>[\w.-]*\w){AFTER}"
)
"""`same for db`, `do that with cache too`, `not that one, the db`."""
ATTRIBUTE = re.compile(
    rf"(?i){BEFORE}(?:the\s+)?(?P<attribute>(?:cpu|memory|ram|disk|network)(?:\s+(?:usage|use|load|limit))?"
    rf"|logs?|image|ports?|uptime|status|health|env(?:ironment)?|labels?|volumes?|mounts?|networks?){AFTER}"
)
"""`and cpu?`, `and the ports?`."""
SAME_FOR_OTHER = re.compile(rf"(?i){BEFORE}(?:{AGAIN}(?:with|for|to)\s+)?the\s+other(?:\s+(?:one|container))?{AFTER}")
"""`and the other one?`, `do the same with the other container`."""
OTHER_ONE = re.compile(r"(?i)\bthe\s+other\s+(?:one|container)\b")
PRONOUN = re.compile(r"(?i)\b(?:it|them|that\s+(?:one|container))\b")
FOREIGN_IT = re.compile(r"(?i)\s+ihn\b|(?<=\w)-(?:le|la)\b")
"""`starte ihn neu`, `redémarre-le`."""
LONGEST_ELLIPSIS = 200
MOST_CHOICES = 5
"""Named when a follow-up does not say which one."""


@dataclass(frozen=True)
class ConversationTurn:
    """One question and its answer, with the names that it was about. The fields are the keys of the stored file.

    `meant`: the completed question; `found`: the names come from a result instead of the question; `untrusted`: the
    answer may contain untrusted text, so it is not shown to a model again; `seen`: `[name, host]` of the containers in
    its results.
    """

    asked: str
    meant: str
    answer: str
    names: tuple[str, ...] = ()
    host: str = ""
    found: bool = False
    untrusted: bool = False
    seen: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class CompletedQuestion:
    """A question with the words it left out.

    `found`: a name in it comes from an earlier result. `unclear`: what has to be asked back, because several things may
    fit; a model that knows the conversation may still understand it.
    """

    text: str
    found: bool = False
    unclear: str = ""


def complete(question: str, turns: Sequence[ConversationTurn], hosts: Sequence[str]) -> CompletedQuestion:
    """Add the names and hosts that a question leaves out, from the turns before it."""
    if not turns:
        return CompletedQuestion(question)
    about = next((turn for turn in reversed(turns) if turn.names), None)
    said = " ".join(question.split())
    # The patterns take time that grows with the square of the length; a follow-up in a few words is short.
    if len(said) <= LONGEST_ELLIPSIS and (completed := _complete_ellipsis(said, about, turns, hosts)):
        return completed
    if about is None:
        return _which_of(question, turns[-1])
    if FOREIGN_IT.search(said) and spoken_language(said):
        return CompletedQuestion(FOREIGN_IT.sub(lambda _: f" {about.names[0]}", said), about.found)
    # A name in an earlier clause of the same question takes precedence.
    clause = normalize.SEPARATOR.split(question, maxsplit=1)[0]
    if normalize.named(clause, about.names) == clause:
        return CompletedQuestion(question)
    words = normalize.named(question.strip().rstrip("?.!"), about.names)
    names_hosts = said_hosts(question, hosts) or EVERY.search(question)
    return CompletedQuestion(f"{words} on {about.host}" if about.host and not names_hosts else words, about.found)


def _complete_ellipsis(
    said: str, about: ConversationTurn | None, turns: Sequence[ConversationTurn], hosts: Sequence[str]
) -> CompletedQuestion | None:
    """A question that only names hosts, or speaks of the other host or container; None if it does neither."""
    last = turns[-1]
    if selector := _only_hosts(said, hosts):
        return CompletedQuestion(f"{_without_hosts(last.meant, hosts)} on {selector}", last.found)
    if OTHER_HOST.fullmatch(said):
        return _on_other_host(said, last, hosts)
    if OTHER_ONE.search(said) or SAME_FOR_OTHER.fullmatch(said):
        return _other_one(said, about, turns, hosts)
    if last.names and (same := SAME_FOR_NAME.fullmatch(said)):
        return CompletedQuestion(_with_name(last, same["name"]), last.found)
    if attribute := ATTRIBUTE.fullmatch(said):
        return _attribute(attribute["attribute"], last, hosts)
    return None


def _attribute(attribute: str, last: ConversationTurn, hosts: Sequence[str]) -> CompletedQuestion | None:
    """Another attribute of the container or the hosts that the last question was about."""
    on = last.host or ",".join(said_hosts(last.meant, hosts))
    if not (last.names or on):
        return None
    parts = [f"of {text.join_names(last.names)}" if last.names else "", f"on {on}" if on else ""]
    return CompletedQuestion(" ".join([attribute, *filter(None, parts)]), last.found)


def _with_name(last: ConversationTurn, name: str) -> str:
    """The last question about another container; its hosts stay."""
    return re.sub(rf"(?<![\w.-]){re.escape(last.names[0])}(?![\w-])", lambda _: name, last.meant.rstrip("?.!"))


def _only_hosts(said: str, hosts: Sequence[str]) -> str:
    """The hosts as a selector, if a question consists of nothing else."""
    match = SAME_ON_HOSTS.fullmatch(said)
    parts = [part.lower() for part in re.split(r"\s*,\s*|\s+and\s+", match["hosts"]) if part] if match else []
    known = all(part in hosts or part in ("all", "local") or part.startswith("@") for part in parts)
    return ",".join(parts) if parts and known else ""


def _on_other_host(question: str, last: ConversationTurn, hosts: Sequence[str]) -> CompletedQuestion:
    """The last question on the host that it was not about."""
    asked = last.host or next(iter(said_hosts(last.meant, hosts)), "")
    others = [host for host in hosts if host != asked]
    if not asked or len(others) != 1:
        return CompletedQuestion(question, unclear=_ask_which("host", others))
    return CompletedQuestion(f"{_without_hosts(last.meant, hosts)} on {others[0]}", last.found)


def _other_one(
    question: str, about: ConversationTurn | None, turns: Sequence[ConversationTurn], hosts: Sequence[str]
) -> CompletedQuestion:
    """A question about the one container that was seen next to the last one, or of the same name on another host."""
    if about is None:
        return CompletedQuestion(question, unclear=_ask_which("container", [name for name, _ in turns[-1].seen]))
    name = about.names[0]
    for turn in reversed(turns):
        if about.host and (name, about.host) not in turn.seen:
            continue
        others = [one for one in turn.seen if one != (name, about.host) and (about.host or one[0] != name)]
        if len(others) == 1:
            return _about(question, about, others[0], hosts)
        if others:
            return CompletedQuestion(
                question, unclear=_ask_which("container", [f"{one} on {host}" for one, host in others])
            )
    elsewhere = [host for host in hosts if host != about.host]
    if about.host and len(elsewhere) == 1:
        return _about(question, about, (name, elsewhere[0]), hosts)
    return CompletedQuestion(question, unclear=_ask_which("container", []))


def _about(question: str, before: ConversationTurn, other: tuple[str, str], hosts: Sequence[str]) -> CompletedQuestion:
    """The question, or the one before if it is only `and the other one?`, about another container."""
    name, host = other
    if SAME_FOR_OTHER.fullmatch(question.strip()):
        words = _without_hosts(_with_name(before, name), hosts)
    else:
        words = OTHER_ONE.sub(lambda _: name, question.strip().rstrip("?.!"))
    return CompletedQuestion(f"{words} on {host}", found=True)


def _which_of(question: str, last: ConversationTurn) -> CompletedQuestion:
    """The question; unclear if its `it` may be one of several containers that were seen."""
    clause = normalize.SEPARATOR.split(question, maxsplit=1)[0]
    if len(last.seen) < 2 or not PRONOUN.search(clause):
        return CompletedQuestion(question)
    return CompletedQuestion(question, unclear=_ask_which("container", [f"{name} on {on}" for name, on in last.seen]))


def _ask_which(kind: str, choices: Sequence[str]) -> str:
    if not choices:
        return f"which {kind} do you mean?"
    others = ["another"] if len(choices) > MOST_CHOICES else []
    *first, last = [*choices[:MOST_CHOICES], *others]
    return f"which {kind} do you mean: {', '.join(first)} or {last}?" if first else f"do you mean {last}?"


def _without_hosts(question: str, hosts: Sequence[str]) -> str:
    names = "|".join([*map(re.escape, sorted(hosts, key=len, reverse=True)), r"@[\w.-]+", "all(?: hosts)?"])
    one = rf"(?:{names})(?![\w-])"
    return re.sub(
        rf"(?i) (?:on|at|from|in) {one}(?:(?:\s?,\s?| and ){one})*", "", " ".join(question.split()).rstrip("?.!")
    )
