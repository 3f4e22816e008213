"""Vocabulary of the rules: synonyms, states and fillers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from functools import lru_cache

SAME = (
    ("show", "list", "display", "print", "view", "see", "get", "give", "ls", "what are", "summarize"),
    ("remove", "delete", "rm", "erase", "destroy", "get rid of", "throw away", "drop", "trash", "nuke", "dispose of"),
    (
        "stop",
        "halt",
        "kill",
        "shut down",
        "shutdown",
        "turn off",
        "switch off",
        "take down",
        "bring down",
        "power off",
        "terminate",
        "quit",
    ),
    (
        "start",
        "boot",
        "boot up",
        "launch",
        "start up",
        "turn on",
        "switch on",
        "bring up",
        "fire up",
        "power on",
        "spin up",
        "wake up",
        "resume",
    ),
    ("restart", "reboot", "bounce", "reload", "cycle", "recycle"),
    ("create", "make", "add", "set up"),
    ("connect", "attach", "join"),
    ("disconnect", "detach"),
    ("pull", "download", "fetch", "grab", "pull down"),
    ("prune", "clean up", "tidy up"),
    ("execute", "exec"),
    ("inspect", "describe", "examine"),
    ("container",),
    ("host", "machine", "server", "computer", "system", "box"),
    ("memory", "ram"),
    ("cpu", "processor"),
    ("disk", "storage", "disk space"),
    ("resource", "usage"),
    ("use", "using", "consuming", "eating"),
    ("running", "up", "alive", "online"),
    ("stopped", "down", "exited", "dead", "offline"),
)
"""Synonyms; the first one represents all."""
STANDS_FOR = {word: words[0] for words in SAME for word in words}

STATES = {
    "running": {"running", "up", "ok", "online"},
    "stopped": {"stopped", "exited", "created", "dead", "down", "offline", "unreachable"},
} | {state: {state} for state in ("healthy", "unhealthy", "paused", "restarting")}
"""Words for states, with the values in results."""


def words_in(table: str) -> frozenset[str]:
    """Unique words of a table."""
    return frozenset(table.split())


ARTICLES = words_in("the a an my our new")
GLUE = words_in("me us of for about is are")
CONNECTORS = words_in("as from to in into with")
PADDING = words_in("all every any some both current currently now there that ones check") | STATES.keys()
"""Fillers in questions; in requests for a change they are significant."""
EMPTY = (ARTICLES | GLUE | CONNECTORS | PADDING) - STATES.keys() | words_in(
    "what which who where when why how many much most least more less have has had do does did be was were can could "
    "will would i you we and or on at by please tell know whether still anything something show free left available "
    "room space use uses using used doing going exposed published open"
)
"""Words that do not help to select a tool."""
NO_NAMES = words_in(
    "image unused dangling it its them this these those one everything everyone nothing no not except if whatever "
    "sorry actually oops "
    "whichever rest other others highest biggest largest greatest maximum longest "
    "lowest smallest fewest minimum shortest busiest quietest "
    "idlest hungriest heaviest fullest emptiest hottest warmest coolest newest oldest"
)
RESERVED = EMPTY | NO_NAMES | STATES.keys() | STANDS_FOR.keys()
"""Words that are names only in quotes."""
REFUSING = re.compile(
    r"(?i)\b(?:not|never|no|cannot|\w+n't|dont|without|except|excluding|unless|until|but|instead|if)(?![\w-])"
)
"""Words that change the meaning of the whole sentence."""
FREE_TEXT = frozenset({"command", "query", "message", "text"})
"""Arguments that take the rest of the sentence."""
MARK = "[\ue000-\uf8ff]"
"""Placeholder for a quoted text."""
NAME = rf"(?:{MARK}|\w(?:[\w./:@-]*\w)?)"
INSIDE = re.compile(
    rf"(?P<command>.+?)\s+(?:in|inside|within)\s+(?:the\s+)?(?:container\s+)?(?P<name>{NAME})(?:\s+container)?",
    re.IGNORECASE,
)
CONDITION = re.compile(r"(?i)\s(?:if|unless|except|or\s+not)(?:\s|$)")
"""Words that make an unquoted command ambiguous."""
QUESTION = re.compile(r"(?i)(?:is|are|which|what|how|\S+\s+is\s+\w+$)\b")
"""Beginning of a clause that only asks."""
AND = r"(?:\s*,\s*(?:and\s+)?|\s+(?:and|&)\s+)"


def singular(word: str) -> str:
    """`containers` → `container`, `boxes` → `box`."""
    if word.endswith(("xes", "ches", "sses")):
        return word[:-2]
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plural else word


def meaning(word: str) -> str:
    """Normalized form of a word and its synonyms."""
    one = singular(word.lower())
    return STANDS_FOR.get(one, one)


def meanings(sentence: str) -> list[str]:
    """Normalized words of a sentence, including phrasal verbs: `shut down` is `stop`."""
    lower = sentence.lower()
    together = [stands for words, stands in STANDS_FOR.items() if " " in words and words in lower]
    return [meaning(word) for word in re.findall(r"[a-z][a-z0-9-]*", lower)] + together


def either(words: Iterable[str]) -> str:
    """Pattern for any of the words, the longest first."""
    return "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in sorted(words, key=len, reverse=True))


@lru_cache(maxsize=512)
def literal(word: str) -> str:
    """Pattern for a word, its synonyms and plurals."""
    stands = meaning(word)
    return rf"(?:{either({stands, *(other for other, same in STANDS_FOR.items() if same == stands)})})(?:e?s)?"


HOST = literal("host")


def is_name(word: str, verbs: Set[str] = frozenset()) -> bool:
    """Whether a word can be a name: quoted, or not in the vocabulary."""
    return bool(re.fullmatch(MARK, word)) or not {word.lower(), meaning(word)} & (RESERVED | verbs)
