"""Plain words: which phrase of a tool a sentence is, and which hosts and options it names.

A phrase such as `stop {name}` becomes one regular expression that the whole sentence has to match, with the freedom
people take: other words for the same thing, plurals, articles, quotes. Nothing in here knows a tool.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from anvyl_mcp import text
from anvyl_mcp.peers.listing import ToolListing

SAME = (
    ("show", "list", "display", "print", "view", "see", "get", "give", "ls", "what are"),
    ("remove", "delete", "rm", "erase", "destroy", "get rid of"),
    ("stop", "halt", "kill", "shut down", "shutdown", "turn off", "switch off"),
    ("start", "boot", "boot up", "launch", "start up", "turn on", "switch on"),
    ("restart", "reboot", "bounce"),
    ("create", "make"),
    ("execute", "exec"),
    ("inspect", "describe", "examine"),
    ("container", "box"),
    ("host", "machine", "server", "computer", "system"),
    ("memory", "ram"),
    ("cpu", "processor"),
    ("disk", "storage", "disk space"),
    ("resource", "usage"),
    ("running", "up", "alive", "online"),
    ("stopped", "down", "exited", "dead", "offline"),
)
"""Words that mean the same; the first stands for all."""
STANDS_FOR = {word: words[0] for words in SAME for word in words}

STATES = {
    "running": {"running", "up", "ok", "online"},
    "stopped": {"stopped", "exited", "created", "dead", "down", "offline", "unreachable"},
} | {state: {state} for state in ("healthy", "unhealthy", "paused", "restarting")}
"""What people call a state, with the values that results have for it."""


def _words(table: str) -> frozenset[str]:
    return frozenset(table.split())


ARTICLES = _words("the a an my our")
GLUE = _words("me us of for about is are")
CONNECTORS = _words("as from to in into with")
PADDING = _words("all every any some both current currently now there that ones check") | STATES.keys()
"""Said around a question without changing which it is. In a request to change something each of them counts."""
EMPTY = (ARTICLES | GLUE | CONNECTORS | PADDING) - STATES.keys() | _words(
    "what which who where when why how many much most least more less have has had do does did be was were can could "
    "will would i you we and or on at by please tell know whether still anything something show free left available "
    "room space use uses using used doing going"
)
"""Words of a question that say nothing about which tool could answer it."""
NO_NAMES = _words("image it its them this these those one everything everyone nothing no not except if")
RESERVED = EMPTY | NO_NAMES | STATES.keys() | STANDS_FOR.keys()
"""Words that are a name only in quotes."""
REFUSING = re.compile(
    r"(?i)\b(?:not|never|no|cannot|\w+n't|dont|without|except|excluding|unless|until|but|instead|if)\b"
)
"""What makes half a sentence mean something else than the whole."""
FREE_TEXT = frozenset({"command", "query", "message", "text"})
"""Arguments that take the rest of the sentence instead of one word."""
CLEARLY = 1.4
"""How much better than the next a tool must fit a question that is none of its phrases."""
SAMPLES = {"name": "web", "image": "nginx", "command": "uptime"}

QUOTED = re.compile(r"""(?<![^\s=,(])(['"`])(.+?)\1(?![\w'"`])""")
MARK = "[\ue000-\uf8ff]"
"""Stands for a quoted text."""
NAME = rf"(?:{MARK}|\w(?:[\w./:@-]*\w)?)"
POLITE = re.compile(
    r"(?i)\s*(?:(?:please|kindly|hey|hi|hello|ok|okay|anvyl|just|now|then|also|go ahead and|let's"
    r"|(?:can|could|would|will) you|(?:i would|i'd) like (?:you )?to|i (?:want|need) (?:you )?to"
    r"|(?:check|see|tell me|let me know) (?:if|whether))[\s,]+)*"
)
THANKS = re.compile(r"(?i)(?:[\s,]+(?:please|thanks|thank you|now|right now|for me|immediately|asap)|[\s.?!,])+$")
DENIED = re.compile(r"(?i)(?:n't|\s+not)\s+(running|healthy)\b")
AND = r"(?:\s*,\s*(?:and\s+)?|\s+(?:and|&)\s+)"
SEPARATOR = re.compile(r"(?i)\s*(?:[,;]|[.!?](?=\s))\s*(?:(?:and|then|also)\s+)*|\s+(?:(?:and|then|also|&&?)\s+)+")
PERIOD = r"(?:(?:\d+\s*(?:s|sec|m|min|h|d|seconds?|minutes?|hours?|days?)\b\s*)+|second|minute|hour|day)"
LEAD = r"(?:(?:with|by|using|and|a|,)\s+)*"
OPTIONS = {
    "tail": r"(?:(?:the\s+)?(?:last|latest)\s+)?(?P<value>\d+)\s+lines?",
    "since": r"(?:since|(?:(?:in|from|for|over|during|within)\s+)?(?:the\s+)?(?:last|past))\s+"
    rf"(?P<value>{PERIOD}|(?<=since\s)\d{{4}}-\S+)(?:\s*ago)?",
    "timeout": r"(?P<value>\d+)\s+sec(?:ond)?s?",
    "grep": r"(?:that\s+)?(?:grep(?:\s+for)?|contain(?:s|ing)?|match(?:es|ing)?|mention(?:s|ing)?)\s+"
    rf"(?P<value>{MARK}|\S+)",
    "name": rf"(?:named|called)\s+(?P<value>{NAME})",
    "all": r"(?:(?:including|also|even|with)\s+)?(?:the\s+)?(?:stopped|exited|dead)(?:\s+ones)?"
    r"|(?:all|every)(?!.*\brunning\b)",
    "force": r"-?-?force|-f|forced|forcibly|by\s+force",
}
"""How people say what an argument of this name wants to know; used where a tool has it."""


def singular(word: str) -> str:
    """`containers` → `container`, `boxes` → `box`."""
    if word.endswith(("xes", "ches", "sses")):
        return word[:-2]
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plural else word


def meaning(word: str) -> str:
    """The one word that stands for this one and all that mean the same."""
    one = singular(word.lower())
    return STANDS_FOR.get(one, one)


def meanings(sentence: str) -> list[str]:
    """The words of a sentence, each as its meaning, and those of words taken together: `shut down` is `stop` too."""
    lower = sentence.lower()
    together = [stands for words, stands in STANDS_FOR.items() if " " in words and words in lower]
    return [meaning(word) for word in re.findall(r"[a-z][a-z0-9-]*", lower)] + together


def _either(words: Iterable[str]) -> str:
    return "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in sorted(words, key=len, reverse=True))


@lru_cache(maxsize=512)
def _literal(word: str) -> str:
    """Any word for the same thing, singular or plural."""
    stands = meaning(word)
    return rf"(?:{_either({stands, *(other for other, same in STANDS_FOR.items() if same == stands)})})(?:e?s)?"


HOST = _literal("host")


def mask(sentence: str) -> tuple[str, tuple[str, ...]]:
    """The sentence with each quoted text as one character, and the quoted texts with their quotes."""
    found: list[str] = []

    def keep(match: re.Match[str]) -> str:
        found.append(match[0])
        return chr(0xE000 + len(found) - 1)

    unmarked = re.sub(MARK, "", text.clean(sentence)).replace("’", "'")
    return QUOTED.sub(keep, unmarked).strip(), tuple(found)


def unmask(value: str, quoted: Sequence[str]) -> str:
    """What was typed; quotes around the whole of it are gone."""
    whole = re.fullmatch(MARK, value.strip())
    words = re.sub(MARK, lambda match: quoted[ord(match[0]) - 0xE000], value.strip())
    return words[1:-1] if whole else words


def _polite(clause: str) -> str:
    return match[0] if (match := POLITE.match(clause)) else ""


def plain(clause: str) -> str:
    """A clause without politeness and punctuation."""
    clause = re.sub(r"(?<=\w)'s\b", "", " ".join(clause.split()))
    clause = THANKS.sub("", clause.removeprefix(_polite(clause)))
    return DENIED.sub(lambda match: " stopped" if match[1].lower() == "running" else " unhealthy", clause)


def free(clause: str) -> str:
    """A clause that ends in free text: only the politeness in front goes, and the mark of a polite question."""
    polite = _polite(clause)
    return clause.removeprefix(polite).rstrip("?" if "you" in polite.lower() else "")


def is_name(word: str, verbs: Set[str] = frozenset()) -> bool:
    """Whether a word can be a name: it is quoted, or has no meaning of its own."""
    return bool(re.fullmatch(MARK, word)) or not {word.lower(), meaning(word)} & (RESERVED | verbs)


@dataclass(frozen=True)
class Way:
    """One way to read a clause: after which words hosts stand, or whether without any, and what else is allowed."""

    hosts_after: str = "on|at|across"
    alone: bool = False
    reads_only: bool = False
    hosts_are_names: bool = False
    host_is_unknown: bool = False


ASKING = Way("on|at|across|of|from|for|in|about", alone=True, reads_only=True)
PLAIN = (Way(), Way(ASKING.hosts_after), ASKING)
BOLD = (Way(hosts_are_names=True), Way(host_is_unknown=True))


@lru_cache(maxsize=64)
def _hosts(known: tuple[str, ...], *, also_or: bool) -> str:
    one = rf"(?:@[\w.-]*\w|(?:{_either(known) or '(?!)'})(?![\w.-]*\w))"
    joint = rf"(?:\s*,\s*(?:and\s+)?|\s*&\s*|\s+(?:and{'|or' if also_or else ''})\s+)"
    every = rf"(?:all|every|each)(?:\s+of)?(?:\s+(?:the|my|our))?\s+{HOST}|all$|the\s+(?:(?:whole|entire)\s+)?fleet"
    here = rf"this\s+{HOST}|localhost|local"
    named = rf"(?:the\s+)?(?:{HOST}\s+)?(?P<named>{one}(?:{joint}{one})*)(?:\s+{HOST}\b)?"
    return rf"(?:{named}|{'(?(after)|(?!))' if also_or else ''}(?P<every>{every})\b|(?P<here>{here})\b)"


@lru_cache(maxsize=64)
def _hosts_in(way: Way, known: tuple[str, ...], *, at_end: bool) -> re.Pattern[str]:
    before = rf"(?P<after>(?:{way.hosts_after})\s+){'?' if way.alone else ''}"
    adverbs = r"(?P<everywhere>everywhere)" + ("" if at_end else r"|(?P<locally>here|locally)")
    # What `and` joins to a host may be a container or another command: such a clause is not this one.
    end = "$" if at_end else r"(?!\s*(?:,|&|\b(?:and|or|but|except)\b))"
    hosts = _hosts(known, also_or=way.alone)
    return re.compile(rf"(?<!\S)(?:{before}{hosts}|(?:{adverbs})\b){end}", re.IGNORECASE)


@lru_cache(maxsize=64)
def _hosts_first(known: tuple[str, ...]) -> re.Pattern[str]:
    hosts = _hosts(known, also_or=False)
    return re.compile(rf"(?i)(?P<on>(?:{Way().hosts_after})\s+)?{hosts}(?(on)[\s,:]+|\s*[,:]\s*)(?=\S)")


def _selector(match: re.Match[str], known: Sequence[str]) -> str:
    groups = match.groupdict()
    if not groups["named"]:
        return "all" if groups["every"] or groups.get("everywhere") else "local"
    spelled = {name.lower(): name for name in known}
    return ",".join(spelled.get(name, name) for name in re.split(rf"{AND}|\s+or\s+", groups["named"].lower()))


def take_hosts(clause: str, way: Way, known: tuple[str, ...], *, at_end: bool = False) -> tuple[str, str] | None:
    """The clause without its hosts, and a selector for them, empty when none are named; None when it cannot be told."""
    if way.host_is_unknown:
        match = re.fullmatch(rf"(.+)\s(?:on|at)\s+(?:(?:the\s+)?{HOST}\s+)?({NAME})", clause, re.IGNORECASE)
        return (match[1], match[2]) if match and is_name(match[2]) and not at_end else None
    found = list(_hosts_in(way, known, at_end=at_end).finditer(clause))
    if len(found) != 1:
        return None if found else (clause, "")
    before, after = clause[: found[0].start()].rstrip(), clause[found[0].end() :].lstrip()
    return f"{before} {after}".strip(), _selector(found[0], known)


def take_first_hosts(sentence: str, known: tuple[str, ...]) -> tuple[str, str]:
    """The sentence without the hosts it begins with: `nas: list containers`, `on nas and gpu stop web`."""
    match = _hosts_first(known).match(sentence, len(_polite(sentence)))
    return (sentence[match.end() :], _selector(match, known)) if match else (sentence, "")


def take_options(
    clause: str, arguments: Mapping[str, Any], quoted: Sequence[str], objects: Iterable[str] = ()
) -> tuple[str, dict[str, Any]]:
    """The clause without what it says about a tool's arguments, and the values. `objects` name what must exist."""
    values: dict[str, Any] = {}

    def given(match: re.Match[str], argument: str) -> str:
        _put(
            values, argument, arguments.get(argument, {}), unmask(match.groupdict("true").get("value", "true"), quoted)
        )
        return " "

    def pair(match: re.Match[str]) -> str:
        return given(match, match["key"]) if match["key"] in {*arguments, "host"} else match[0]

    clause = re.sub(rf"(?<!\S){LEAD}(?P<key>\w+)=(?P<value>{MARK}|\S+)", pair, clause)
    for argument, schema in arguments.items():
        if argument in values or argument in objects:
            continue
        ways = [OPTIONS[argument]] if argument in OPTIONS else []
        if schema.get("type") == "integer":
            ways.append(rf"-?-?{argument}(?:\s+of)?\s+(?P<value>\d+)(?:\s+(?:seconds?|lines?))?")
        elif schema.get("type") == "boolean" and not ways:
            ways.append(rf"-?-?{argument}")
        for way in ways:
            if match := re.search(rf"(?<!\S){LEAD}(?:{way})(?!\S)", clause, re.IGNORECASE):
                clause = clause[: match.start()] + given(match, argument) + clause[match.end() :]
                break
    return " ".join(clause.split()), values


def _put(values: dict[str, Any], argument: str, schema: Mapping[str, Any], value: str) -> None:
    match schema.get("type"):
        case "array":
            values[argument] = [*values.get(argument, []), *value.split(",")]
        case "integer" if value.isdecimal():
            values[argument] = int(value)
        case "boolean":
            values[argument] = value.lower() in ("true", "yes", "1", "on")
        case _ if argument == "since":
            one = re.sub(r"^(?=[a-z])", "1", value)
            values[argument] = re.sub(r"(\d+)\s*([a-z])[a-z]*\s*", r"\1\2", one)
        case _:
            values[argument] = value


def take_subject(question: str, nouns: Set[str]) -> tuple[str, str]:
    """`is the web container running` as `running` and `web`; no subject when it is no such question."""
    words = [word for word in question.split() if not {word.lower(), meaning(word)} & (ARTICLES | {"still"} | nouns)]
    match [word.lower() for word in words]:
        case ["is" | "are" | "was", _, state] if meaning(state) in STATES and is_name(words[1]):
            return words[2], words[1]
        case [_, "is" | "are" | "was", state] if meaning(state) in STATES and is_name(words[0]):
            return words[2], words[0]
    return question, ""


def noun_of(listing: ToolListing) -> str:
    """What a tool lists: `container`; empty when its result is no list."""
    return meaning(text.rows_field(text.resolved(listing.output_schema)))


def _fit(listing: ToolListing, word: str) -> int:
    """How much a word speaks for a tool: it lists such things, says the word, has such a state, or mentions it."""
    schema = text.resolved(listing.output_schema)
    fields = set(meanings(" ".join(_fields(schema)).replace("_", " ")))
    if word == noun_of(listing):
        return 5
    if word in meanings(" ".join([*listing.say, listing.name.replace("_", " ")])):
        return 3
    if word in STATES and fields & ({"health"} if "health" in word else {"state", "status"}):
        return 2
    return int(word in fields or word in meanings(listing.description))


def _fields(schema: Mapping[str, Any]) -> list[str]:
    nested = [schema.get("items", {}), *schema.get("properties", {}).values()]
    return [*schema.get("properties", {}), *(field for inner in nested if inner for field in _fields(inner))]


def fitting(tools: Sequence[ToolListing], question: str) -> ToolListing | None:
    """The tool that clearly shares most with the words of a question; None when it is not clear."""
    words = set(meanings(" ".join(word for word in re.sub(MARK, "?", question).lower().split() if word not in EMPTY)))
    fits = {word: [_fit(tool, word) for tool in tools] for word in words}
    known = sum(any(fit) for fit in fits.values())
    if known <= len(words) - known:
        return None
    scores = [sum(fit[index] / (sum(fit) or 1) for fit in fits.values()) for index in range(len(tools))]
    clear = [tool for tool, score in zip(tools, scores, strict=True) if score * CLEARLY > max(scores)]
    return clear[0] if len(clear) == 1 else None


def examples(tools: Iterable[ToolListing], question: str) -> str:
    """A hint with three things to say instead, first what shares words with the question."""
    said = set(meanings(question))
    ranked = sorted((tool.say[0] for tool in tools if tool.say), key=lambda phrase: -len(said & set(meanings(phrase))))
    filled = [re.sub(r"\{(\w+)\}", lambda hole: SAMPLES.get(hole[1], hole[1]), phrase) for phrase in ranked[:3]]
    return "say it like " + text.joined([f"`{phrase}`" for phrase in filled])


def holes(phrase: str) -> list[str]:
    """The arguments a phrase has holes for."""
    return re.findall(r"\{(\w+)\}", phrase)


def spoken(listing: ToolListing) -> list[str]:
    """A tool's phrases; what is read of a thing can also follow it: `logs {name}`, `{name} logs`."""
    asked = [phrase for phrase in listing.say if listing.reads and len(holes(phrase)) == 1]
    return [*listing.say, *(re.sub(r"(\S+) (?:(?:of|about) )?(\{\w+\})$", r"\2 \1", phrase) for phrase in asked)]


@lru_cache(maxsize=512)
def literals(phrase: str) -> frozenset[str]:
    """The meanings without which a sentence cannot be this phrase."""
    return frozenset(meanings(re.sub(r"\{\w+\}", "", phrase))) - ARTICLES - GLUE - CONNECTORS


def fill(phrase: str, clause: str, listing: ToolListing, given: Set[str]) -> dict[str, str] | None:
    """What stands in the holes of the phrase when it is the whole clause. Options have filled the `given` ones."""
    free = not FREE_TEXT.isdisjoint(holes(phrase))
    if not free:
        skipped = ARTICLES | GLUE | PADDING - set(phrase.split()) if listing.reads else ARTICLES
        clause = " ".join(word for word in clause.split() if word.lower() not in skipped)
    match = _pattern(phrase, tuple(listing.names.items()), frozenset(given), reads=listing.reads).fullmatch(clause)
    return match.groupdict() if match else None


@lru_cache(maxsize=1024)
def _pattern(phrase: str, kinds: tuple[tuple[str, str], ...], given: frozenset[str], *, reads: bool) -> re.Pattern[str]:
    parts: list[str] = []
    words = [word for word in phrase.split() if word not in (ARTICLES | GLUE if reads else ARTICLES)]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        hole = word.strip("{}")
        if word == hole and not (word in CONNECTORS and following.strip("{}") in given):
            parts.append(_literal(word))
        elif word != hole and hole not in given:
            parts.append(_hole(hole, dict(kinds).get(hole, "")))
    return re.compile((rf"(?:{_literal('show')}\s+)?" if reads else "") + r"\s+".join(parts), re.IGNORECASE)


def _hole(argument: str, kind: str) -> str:
    if argument in FREE_TEXT:
        return rf"(?P<{argument}>.+)"
    called = r"(?:named|called)\s+"
    if not kind:
        return rf"(?:{called})?(?P<{argument}>{NAME})"
    noun = _literal(kind)
    return rf"(?:{noun}\s+|{called})*(?P<{argument}>{NAME}(?:{AND}(?:{noun}\s+)?{NAME})*)(?:\s+{noun})?"


def split_names(value: str, kind: str) -> list[str]:
    """`web, db and container cache` → three names."""
    return re.split(rf"{AND}(?:{_literal(kind)}\s+)?", value, flags=re.IGNORECASE)
