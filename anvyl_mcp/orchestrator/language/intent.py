"""Intent of a question: read or change, and the verbs of the change.

No model is asked here, so nothing a model read can move it. When the words are not clear, it says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from anvyl_mcp.orchestrator.language.normalize import mask
from anvyl_mcp.orchestrator.language.vocabulary import ARTICLES, MARK, RESERVED, STANDS_FOR, meaning
from anvyl_mcp.peers.connection.listing import ToolListing

Intent = Literal["read", "change", "unclear"]

IT = r"((?:\S+\s+){0,4})"
"""Words allowed inside a phrasal verb, as a group, so that they are kept when the verb is removed."""
LOOSELY = {
    "stop": rf"(?:take|bring|get)\s+{IT}(?:down|offline)|put\s+{IT}to\s+sleep|(?:shut|turn|switch|power)\s+{IT}"
    r"(?:down|off)|quit|terminate|disable",
    "start": rf"(?:bring|get|put)\s+{IT}(?:up|back|online|going|running|started)|(?:fire|spin)\s+{IT}up"
    rf"|(?:power|turn|switch)\s+(?!off\b|down\b){IT}on(?=\s*$|\s+(?:on|at|again|please|for|now|too)\b)|kick\s+{IT}off|wake|resume|enable|come\s+{IT}(?:up|back|online)"
    r"|be\s+(?:back\s+)?(?:up|online)",
    "restart": rf"(?:give|needs?)\s+{IT}(?:kick|bounce|restart|reboot|fresh\s+start)|kick(?!\s+off)|cycle|recycle"
    r"|reload",
    "remove": rf"(?:can|may|should|must|(?:has|have|needs?)\s+to)\s+go(?!\s+(?:to|on|back|up)\b)"
    rf"|throw\s+{IT}(?:away|out)|clean\s+{IT}up|clear\s+out"
    rf"|tear\s+{IT}down|drop|wipe|trash|purge|nuke"
    r"|uninstall|dispose\s+of",
    "create": rf"deploy|install|(?:spin|set|bring)\s+{IT}up|launch|add|put\s+(?:an?|another)",
    "run": r"launch|deploy|install|start\s+(?:up\s+)?(?:an?|another|\d+)|execute|exec",
    "connect": rf"hook\s+{IT}(?:up|into|to)|attach|join|plug\s+{IT}in",
    "disconnect": r"detach|unplug|unhook",
    "pull": r"fetch|grab|download",
    "execute": r"run|exec",
    "prune": rf"clean\s+{IT}up|clear\s+out|reclaim|free\s+{IT}up",
}
"""Synonyms of change verbs, by the verb of the tool's phrase."""
DONE = {
    "stop": r"(?:shut|turned|switched|powered|taken|brought)\s+(?:off|down)",
    "start": r"(?:(?:turned|switched|powered|brought)\s+)?(?:back\s+)?(?:on|up)|(?:up\s+and\s+)?running|going",
    "remove": r"gone|thrown\s+(?:away|out)|wiped|dropped",
}
"""Irregular passive forms of verbs."""
AT_THE_END = r"(?=\s*(?:$|(?:on|at|from|again|please|for|tonight|now|today|too|as)\b))"
ASKS = re.compile(
    r"(?:(?:would|should|could|can|may|shall|will)\s+(?:i|it|there|that|this|they|anyone|anything)"
    r"|do(?=\s[^.!?]*\?)|what(?:'?s)?|wh?ich|who|whose|when|where(?:'?s)?|why|how(?:'?s)?|is|are|was|were|does"
    r"|do\s+(?:i|we|you|they|any|the|all)|did|has|have|had|any|anything"
    r"|anyone|show|list|display|give\s+me|tell|know|check|see|find|count|compare|rank|sort|describe|inspect|examine|look|view"
    r"|gimme|tail|last\s+\d+|(?:on|in|at|for|since)\s+(?:which|what|when|how)|just\s+the|env|(?:disk|uptime|cpu|memory)(?!\s+(?:(?:on|of)\s+\S+\s+)?(?:is|was)\b)"
    r"|print|report|summari[sz]e|explain|ls|ps|logs?|stats|status|info|name"
    r"|get(?!\s+(?:rid|(?:\S+\s+){1,4}(?:up|back|down|online|offline|going|running|started))))\b"
)
"""Beginnings of clauses that only ask."""
LEAD_IN = re.compile(
    r"(?:(?:please|kindly|hey|hi|hello|ok|okay|so|well|now|then|also|just|and|but|or|first|next|finally|afterwards|anvyl"
    r"|go\s+ahead\s+and|let'?s|(?:can|could|would|will)\s+you|(?:i|we)(?:'d|\s+would)?\s+(?:like|want|need|have)"
    r"\s+(?:you\s+)?to|you\s+(?:should|can|may|must)|if\s+(?:so|not|yes|no|needed|necessary|possible)|try\s+to"
    r"|make\s+sure\s+to|(?:it\s+is\s+|it's\s+)?time\s+to)[\s,:]+)+"
)
CLAUSE = re.compile(r"[.;!?\n]+(?=\s|$)|,|\s+(?:and|then|but|or)\s+|\s[-–—]\s|:\s")
DENIED = re.compile(
    r"\b(?:\w+n't|(?:do|did|does|is|was|are|would|could|should|have|has|ca|wo|must)nt|do\s+not|did\s+not|never|without|not|no\s+need\s+to|instead\s+of|rather\s+than"
    r"|avoid|cannot)\s+(?:\S+\s+)?$"
)
NOT_AN_ORDER = re.compile(
    r"\b(?:i|you|we|it|they|that|which|who|did|do|does|to|the|a|an|of|this|last|next|containers?|hosts?|after|before)\s+$"
)
ORDER = re.compile(rf"\b(?:want|need|like|have|time|please|you)\s+{IT}to\s+$")
BE_DONE = re.compile(
    r"\b(?:(?:should|must|can|could|(?:needs?|has|have)\s+to)\s+be"
    rf"|(?:want|like|need|(?<!i )(?<!we )(?:have|get))\s+{IT})\s*$"
)


@dataclass(frozen=True)
class Wish:
    """Intent of a text. `verbs`: verbs of the requested changes; `asks`: it contains a question."""

    intent: Intent
    verbs: frozenset[str] = frozenset()
    asks: bool = False


@dataclass(frozen=True)
class Clause:
    """One clause: its position, the changes it requests, and whether it is a question."""

    start: int
    verbs: frozenset[str] = frozenset()
    asks: bool = False


def verbs_of(listing: ToolListing) -> frozenset[str]:
    """Verbs for a tool, normalized."""
    firsts = [phrase.split()[0] for phrase in listing.say] + [listing.name.partition("_")[0]]
    return frozenset(meaning(word) for word in firsts)


def read_wish(said: str, tools: Iterable[ToolListing]) -> Wish:
    """Intent of a text, for the available tools."""
    found = clauses(mask(said)[0], tools)
    wanted, asks = frozenset[str]().union(*(clause.verbs for clause in found)), any(clause.asks for clause in found)
    if wanted:
        return Wish("change", wanted, asks)
    return Wish("read" if asks else "unclear", asks=asks)


def clauses(masked: str, tools: Iterable[ToolListing]) -> list[Clause]:
    """Clauses of a text with masked quotes."""
    known = frozenset[str]().union(*(verbs_of(tool) for tool in tools if not tool.reads))
    found, start = list[Clause](), 0
    for end, following in [*(match.span() for match in CLAUSE.finditer(masked)), (len(masked), len(masked))]:
        words = f"{re.sub(MARK, '…', masked[start:end]).lower().strip()} "
        words = words.removeprefix(lead[0] if (lead := LEAD_IN.match(words)) else "")
        # `do web1 and web2 run the same image?` is one question; `is web up? restart it` is not.
        goes_on = bool(found) and found[-1].asks and not re.search(r"[.;!?\n]", masked[found[-1].start : start])
        asking = (
            bool(ASKS.match(f"{words}{masked[following:].lower()}" if words.startswith("do ") else words)) or goes_on
        )
        verbs = frozenset(verb for verb in known if _ordered(verb, words, asking=asking))
        found.append(Clause(start, verbs, asking))
        start = following
    return found


@lru_cache(maxsize=256)
def _forms(verb: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns for a verb in imperative and in passive form."""
    words = sorted({verb, *(word for word, stands in STANDS_FOR.items() if stands == verb)}, key=len, reverse=True)
    ways = [re.escape(word).replace(r"\ ", r"\s+") for word in words] + ([LOOSELY[verb]] if verb in LOOSELY else [])
    done = [rf"{re.escape(word)}(?:{re.escape(word[-1])}?ed|d)" for word in words if " " not in word]
    done += [DONE[verb]] if verb in DONE else []
    return _any_of(ways, "(?! (?:sure|polic))"), _any_of(done, AT_THE_END)


def _any_of(ways: Iterable[str], unless: str = "") -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{'|'.join(ways)})(?![\w-]){unless}")


def words_after(said: str, verbs: Iterable[str]) -> list[str]:
    """Words directly after the verbs: `mysql` in `stop the mysql container`."""
    rest = [said.lower()[match.end() :] for verb in verbs for match in _forms(verb)[0].finditer(said.lower())]
    words = [[word for word in re.findall(r"[\w.:/@-]*\w", part) if word not in ARTICLES] for part in rest]
    return [first for some in words for first in some[:1] if first not in RESERVED]


def without_verbs(said: str, verbs: Iterable[str]) -> str:
    """Text in lower case without the verbs of changes."""
    for form in (form for verb in sorted(verbs) for form in _forms(verb)):
        said = form.sub(lambda match: f" {' '.join(between for between in match.groups() if between)} ", said)
    return said


def _ordered(verb: str, clause: str, *, asking: bool) -> bool:
    """Whether a clause requests this change: at its beginning, or anywhere if it is not a question."""
    form, done = _forms(verb)
    for match in form.finditer(clause):
        before = clause[: match.start()]
        if not before.strip():
            return True
        if not asking and not DENIED.search(before) and (ORDER.search(before) or not NOT_AN_ORDER.search(before)):
            return True
    return not asking and any(BE_DONE.search(clause[: match.start()]) for match in done.finditer(clause))
