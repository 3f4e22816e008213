"""Rewrite idioms into the words of the phrases."""

from __future__ import annotations

import re

from anvyl_mcp.orchestrator.language.vocabulary import ARTICLES, NAME, is_name

ONE = rf"(?:(?:the|my|our)\s+)?(?:(?:container|service|app)\s+)?(?P<name>{NAME})(?:\s+(?:container|service|app))?"
"""One name."""

Rewriting = tuple[re.Pattern[str], str]


def _idiom(pattern: str, replacement: str) -> Rewriting:
    return re.compile(rf"(?i)^{pattern}(?!\S)"), replacement


DOCKER = re.compile(r"(?i)\bdocker\s+(?=(?:containers?|images?|networks?|volumes?|events?|hosts?)\b)")
"""Unambiguous idioms."""

IDIOMS: tuple[Rewriting, ...] = (
    _idiom(
        rf"(?P<verb>pull|get|fetch|download)\s+(?:the\s+)?latest\s+(?P<name>{NAME})\s+image", r"pull \g<name>:latest"
    ),
    _idiom(
        rf"put\s+{ONE}\s+(?:on|in|into)\s+(?:the\s+)?(?P<net>{NAME})\s+network", r"connect \g<name> to network \g<net>"
    ),
    _idiom(rf"take\s+{ONE}\s+off\s+(?:the\s+)?(?P<net>{NAME})\s+network", r"disconnect \g<name> from network \g<net>"),
    _idiom(rf"turn\s+{ONE}\s+off\s+and\s+(?:back\s+)?on(?:\s+again)?", r"restart \g<name>"),
    _idiom(
        rf"(?:get|bring|have)\s+{ONE}\s+(?:back\s+)?(?:up|running|going|started|online)(?:\s+again)?", r"start \g<name>"
    ),
    _idiom(
        rf"(?:bring|fire|start|boot|spin|wake)\s+(?:back\s+)?{ONE}\s+(?:back\s+)?up(?:\s+again)?", r"start \g<name>"
    ),
    _idiom(rf"(?:shut|turn|switch|take|bring|power)\s+{ONE}\s+(?:down|off)", r"stop \g<name>"),
    _idiom(rf"(?:turn|switch|power)\s+{ONE}\s+on", r"start \g<name>"),
    _idiom(rf"give\s+{ONE}\s+an?\s+(?:quick\s+)?(?:restart|reboot|kick|bounce)", r"restart \g<name>"),
    _idiom(rf"(?:do|perform)\s+an?\s+(?P<verb>restart|start|stop)\s+(?:of|for|on)\s+{ONE}", r"\g<verb> \g<name>"),
    _idiom(rf"make\s+{ONE}\s+(?P<verb>restart|start|stop)", r"\g<verb> \g<name>"),
    _idiom(rf"i\s+(?:need|want)\s+{ONE}\s+(?:to\s+be\s+)?started", r"start \g<name>"),
    _idiom(rf"i\s+(?:need|want)\s+{ONE}\s+(?:to\s+be\s+)?stopped", r"stop \g<name>"),
    _idiom(rf"i\s+(?:need|want)\s+{ONE}\s+(?:to\s+be\s+)?restarted", r"restart \g<name>"),
)
"""Requests for a change whose verb is not at the beginning; each must name one object."""

FREELY: tuple[Rewriting, ...] = (
    (re.compile(r"(?i)^((?:which|what|how many)\b.*\b(?:containers?|services?))\s+runs?\b"), r"\1 running"),
    (re.compile(r"(?i),\s*(?=(?:(?:and|also|even|including|with|plus|the)\s+)*(?:stopped|exited|dead)\b)"), " "),
    (re.compile(r"(?i)\s+(?:in\s+total|altogether|overall|all\s+together)$"), ""),
    (
        re.compile(
            r"(?i)^(?:what|which)\s+((?:[\w-]+\s+){1,2})(?:does|do|is)\s+(.+?)\s+(?:run|running|use|using|have|on)$"
        ),
        r"\1of \2",
    ),
    (re.compile(r"(?i)^is\s+(.+?)\s+under\s+(?:(?:heavy|high|much|a\s+lot\s+of)\s+)?load$"), r"load of \1"),
    (re.compile(r"(?i)\brestart\s+policy\b"), "policy"),
    (re.compile(r"(?i)^((?:show\s+)?(?:more\s+)?(?:details?|info|information))\s+on\b"), r"\1 about"),
    (re.compile(r"(?i)^(?:search|grep|look\s+through)\s+(.*\blogs?\b.*?)\s+for\s+(\S+)$"), r"\1 containing \2"),
    (re.compile(r"(?i)^(?:search|look|grep)\s+(?:for\s+)?(\S+)\s+in\s+(.*\blogs?\b.*)$"), r"\2 containing \1"),
    (re.compile(r"(?i)\bresource\s+(?:usage|use)\b(?=.*\bcontainers?\b)"), "stats"),
    (re.compile(r"(?i)\beverything(?=\s+(?:running|up)\b)"), "containers"),
    (re.compile(r"(?i)\b(?:memory|ram)\s+usage\b"), "memory use"),
)
"""Idioms for questions, not used for changes."""


def said_plainly(clause: str, *, asks: bool) -> str:
    """Rewrite the idioms of a clause; `asks`: parse it as a question."""
    clause = DOCKER.sub("", clause)
    for pattern, replacement in IDIOMS:
        match = pattern.match(clause)
        if match and match["name"].lower() not in ARTICLES and is_name(match["name"]):
            return match.expand(replacement) + clause[match.end() :]
    for pattern, replacement in FREELY if asks else ():
        clause = pattern.sub(replacement, clause)
    return clause
