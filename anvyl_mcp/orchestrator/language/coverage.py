"""Words of a command that no parser consumed, and remarks that do not change its meaning.

An order is made only when nothing is left over. What turns orders cannot be listed (`tomorrow`, `my boss said`, `apart
from`, `just kidding`); what leaves them as they are can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from anvyl_mcp.orchestrator.language.intent import LEAD_IN, without_verbs
from anvyl_mcp.orchestrator.language.vocabulary import ARTICLES, MARK, REFUSING, words_in

HARMLESS = re.compile(
    r"\b(?:is|are|am|was)(?:n't|\s+not|\s+no\s+longer)\s+(?:needed|used|in\s+use|required)(?:\s+any\s*more)?"
    r"|\bno\s+longer\s+(?:needed|used|need(?:ed)?\s+it)|\bno\s+\w+\s+(?:needed|required|necessary)"
    r"|\b(?:don'?t|do\s+not)\s+need\s+(?!to\b)(?:(?:the|its|any|this|that)\s+)?\S+(?:\s+any\s*more)?"
    r"|\b(?:has|have|is|are|there'?s)\s+no\s+\w+\s+(?:left|free)"
    r"|\b(?:won'?t|(?:does|is|are)(?:n'?t|\s+not)(?:\s+want\s+to)?)\s+(?:\w+\s+)?"
    r"(?:load|start|work|respond|answer|come\s+up|connect|react|(?:work|respond|answer|load)ing)(?:\s+any\s*more)?\b",
    re.IGNORECASE,
)
"""Negations that do not change a command."""
BUT = re.compile(r"\bbut\s+(?=give\b|with\b|wait\s+(?:for\s+)?\d)", re.IGNORECASE)
"""Joins a manner to a command."""
TURNING = re.compile(rf"{REFUSING.pattern}|\b(?:only|other\s+than|or)(?![\w-])")
"""Words that change the meaning of a command, anywhere in it."""
KEEPING = re.compile(
    r"(?i)^\W*(?:(?:and|please|just)\s+)*(?:keep|leave)\s+(?!(?:it|them|that|this|everything|all)\b)(?:the\s+)?\S+"
    r"(?:\s+(?:container|image|volume|network|data))?(?:\s+(?:running|up|alone|as\s+it\s+is|in\s+place|untouched|alive))?\W*$"
)
"""Says what stays unchanged."""
NEEDLESS = " is needless "
"""Placeholder for harmless words."""
REASON = re.compile(
    r"\s(?:because|cos|cuz|so\s+that|so(?=\s+(?:i|we|it|they|the|that)\b)"
    r"|(?:as|since)(?=\s+(?:i|we|it|it's|they|the|nobody)\b))\s"
    r"|(?<=\w)\s+(?=(?:i|we)(?:'m|'ve|'re|\s+(?:am|are|have|had|was|were|need))\b)",
    re.IGNORECASE,
)
"""Begins the reason of a command."""
BECAUSE = re.compile(r"(?i)\b(?:because|cos|cuz)\b")
"""Begins only reasons."""
PURPOSE = re.compile(
    r"\bso\s+(?:that\s+)?(?:i|we|it|they|(?:the\s+)?\S+)\s+(?:can|could|will|has|have)\s+[^,.;:]*$|"
    r"\b(?:in\s+order\s+)?to\s+(?:free|save|make|gain|reclaim|fix|apply|clear|reset|refresh|release)\s+"
    r"(?:up\s+)?(?:(?:some|more|the|its|a|bit|of|new|old)\s+)*[a-z]+(?:\s+up)?\s*$",
    re.IGNORECASE,
)
SAKE = re.compile(
    r"\bfor\s+(?!(?:me|us|now|good|real)\b)(?P<what>(?:(?:the|a|an|our|my|some|more|new|its|their)\s+)*[\w-]+"
    r"(?:\s+(?!(?:on|at|in|from|with|and|to|of|please)\b)[\w-]+){0,2}(?:\s+of\s+(?:the\s+)?[\w-]+)?)",
    re.IGNORECASE,
)
"""Purposes."""
LASTING = re.compile(
    r"(?i)\d|\b(?:seconds|minutes|hours?|days|weeks?|months?|years?"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|one|two|three|five|ten|half|few|couple|each)\b"
)
"""A duration or time that requires a later action; `for a while` does not."""
ASKED = re.compile(
    r"(?i)^\s*(?:i|we)(?:'d|\s+would)?\s+(?:want|need|like)\b|\b(?:as\s+soon\s+as\s+possible|(?:right|straight)\s+(?:now|away)|at\s+once|once\s+(?:more|again)|after\s+that"
    r"|for\s+(?:me|us|now|good)|go\s+ahead|if\s+you\s+please"
    r"|you\s+know|do\s+me\s+a\s+favou?r|(?:be\s+)?so\s+kind|go\s*$|good\s+(?:morning|day|afternoon|evening)|a\s+(?:lot|million)|bye"
    r"|(?:that|which)\s+(?:keeps|is|are|was)\s+[a-z]+(?:ing|ed)|real(?:ly)?\s+quick"
    r"|(?:should|must|can|(?:needs?|has|have)\s+to)\s+(?=be\b|go\b|$)|do\s+(?:that|it|this)(?=\s+for\b|\W*$)"
    r"|(?:give|allow|grant)\s+(?:it|them)(?=\s+(?:to\s+finish|time)?\s*$)|wait\s*$|to\s+finish\s*$|then(?=\s+\S))"
)
"""Remarks that do not change a command."""
FILLERS = (
    words_in(
        "please pls plz kindly thanks thank you thx cheers now immediately asap quickly again first also too "
        "aswell well already just simply so ok okay hey hi hello anvyl finally afterwards next and be as on "
        "at in from of to with for that which is are it its it's them their these those this one ones here there me us "
        "go yes yeah yep alright sure great perfect onto into quick gracefully cleanly properly completely entirely "
        "permanently plus following about regarding safely urgently over lol mate dude guys detached background "
        "machine machines host hosts box boxes server servers unused old stuck hung hanging broken crashed crashing "
        "failing failed existing stale leftover "
        "up out off down away back"
    )
    | ARTICLES
)
KINDS = {
    "container": (
        "container",
        "service",
        "app",
        "application",
        "instance",
        "thing",
        "job",
        "process",
        "server",
        "notebook",
        "dashboard",
        "database",
        "webserver",
        "tier",
    ),
    "image": ("image", "version", "release", "tag", "newest", "latest"),
    "network": ("network",),
    "volume": ("volume",),
}
"""Nouns for objects of a kind."""
WHEN = words_in(
    "tomorrow tonight later soon today yesterday daily nightly weekly monthly hourly eventually sometime someday "
    "midnight noon"
)
"""Time words, which are not names."""
TODAY = words_in("today tonight")
"""`stop it for today` means now."""
WEIGHS = re.compile(
    r"(?i)\b(?:when|once|while|whenever|after(?!\s+that)|before|till?|whether|provided|assuming|suppos\w*|in\s+case"
    r"|as\s+(?:soon|long)\s+as|depend\w*|should|must|may|might|maybe|perhaps|possibly|could|would|shall|ought|can|wait\w*"
    r"|later|say|says|said|saying|tells?|told|asks?|asked|wants?|wanted|wish\w*|wrote|writes?|thinks?|thought|hopes?"
    r"|hoped|hears?|heard|reads?|claims?|claimed|suggest\w*|propos\w*|orders?|ordered|demand\w*|request\w*|recommend\w*"
    r"|advis\w*|according|exclud\w*|except\w*|exempt\w*|omit\w*|skip\w*|spar\w+|plans?|forg[eo]t\w*|refuse\w*|decided?|kidding|jok\w+|cancel\w*|scratch|scrap|mistake"
    r"|mind|mean|means|meant|typo|undo|sorry|leave|keep|stay\w*|remain\w*|ignore\w*|hold|nope|nah|\w+sel(?:f|ves)|examples?"
    r"|hypothe\w*|still\s+(?:needed|used|in\s+use)|needed|required|important|too\s+(?:early|soon|risky)|dangerous"
    r"|do(?:ing)?\s+(?:it|that|this))\b"
)
"""Words that make a remark relevant: conditions, reported speech, second thoughts."""
STATEMENT = re.compile(
    r"(?i)^\W*(?:(?:and|so|well|also|because|as|since)\s+)*"
    r"(?!(?:where|how|who|whose|what|which|why|is|are|was|were|had|has|have|did|does)\b)(?:"
    r"(?:i|we)(?:'m|'re|'ve|'ll|\s+(?!like\b|need\s+to\b)\S+)\s+\S"
    r"|(?:\S+\s+){0,3}?\S+(?:\s+(?:on|of|in|from|at|with)\s+(?:the\s+)?\S+)?"
    r"(?:'s|'re|\s+(?:is|are|was|were|has|have|had|keeps?|seems?|looks?|got|broke|went|ran|hung))\s+(?!it\W*$)\S"
    r"|(?:it|they|(?:the|my|our|its)\s+(?:\S+\s+)?\S+)(?:\s+(?:on|of|in|from|at)\s+(?:the\s+)?\S+)?\s+[a-z]{2,}(?:s|ed)\b"
    r"|(?:people|users|customers|every(?:one|body)|nobody)\s+\S|(?:done|finished)\s+with\b"
    r"|(?:\S+\s+){0,3}(?:too\s+(?:much|many|hot|loud|slow|full|big)\b|(?:broken|slow|full|useless|out\s+of\s+\S+)\W*$)"
    r")"
)
"""A statement about the current state."""


def is_remark(words: str, names: Iterable[str]) -> bool:
    """Whether the words only describe the state: no command, condition or opinion."""
    remark = HARMLESS.sub(NEEDLESS, words)
    if not remark.strip(" .!,:;") or remark.strip(" .!,:;").endswith(NEEDLESS.strip()):
        return not WEIGHS.search(remark)
    remark = _without(remark, names, " it ") if names else remark
    remark = re.sub(r"\bit(?:\s+(?:(?:on|of|in|from|at)\s+)?(?:the\s+)?it)+\b", "it", " ".join(remark.split()))
    return bool(STATEMENT.search(remark)) and not WEIGHS.search(remark) and "?" not in remark


def without_reason(words: str, names: Iterable[str]) -> str:
    """Words of a command without its reason; possible conditions are kept."""
    if (reason := REASON.search(words)) and (BECAUSE.search(reason[0]) or is_remark(words[reason.end() :], names)):
        words = words[: reason.start()]
    return SAKE.sub(
        lambda match: (
            match[0] if LASTING.search(match["what"]) or (WHEN - TODAY) & set(match["what"].lower().split()) else " "
        ),
        PURPOSE.sub(" ", words),
    )


def left_over(words: str, verbs: Iterable[str], said: Iterable[str], kinds: Iterable[str]) -> list[str]:
    """Words of a command other than its verbs, the objects `said` and their kinds."""
    rest = f" {BUT.sub(' ', HARMLESS.sub(' ', words))} ".lower()
    rest = re.sub(r"(?<!\w)'s\b", " ", rest)
    rest = ASKED.sub(" ", re.sub(r"[,;!?]", " ", _without(rest, said, " ")))
    rest = ASKED.sub(" ", without_verbs(rest, verbs))
    lead = LEAD_IN.match(rest.lstrip())
    rest = rest.lstrip().removeprefix(lead[0] if lead else "")
    plain = FILLERS | {one for kind in kinds for noun in KINDS.get(kind, (kind,)) for one in (noun, f"{noun}s")}
    return [word for word in re.findall(rf"{MARK}|[\w@][\w.:/@'-]*", rest) if word.rstrip(".:/'-") not in plain]


def _without(text: str, said: Iterable[str], instead: str) -> str:
    """Remove object names from a text; `old trainer` matches `old-trainer`."""
    for one in sorted(set(said), key=len, reverse=True):
        parts = [re.escape(part) for part in re.split(r"[-_. ]+", one.strip()) if part]
        if parts:
            text = re.sub(rf"(?i)(?<![\w-]){'[-_. ]?'.join(parts)}(?:'s)?(?![\w-]|\.\w)", instead, text)
    return text
