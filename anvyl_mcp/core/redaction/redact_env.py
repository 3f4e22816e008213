"""Redact environment variables by their name or the format of their value."""

from __future__ import annotations

import re
from collections.abc import Iterable

SECRET_NAMES = re.compile(
    r"(?<!com)(?<!by)pass(?!age|e[dnrs]|ing|ive|ion|port|thr)|secret|token(?!i[sz])|api_?key|private|credential|"
    r"auth(?!or(?!i[sz]))|dsn|salt(?!stack)|cookie|session|signature|(^|_)(key|pw|pwd|psw|pswd|pat|jwt)$|"
    r"(^|_)(creds?|psw|pswd)(_|$)|connection_?string|mnemonic|telegram(_?bot)?$|"
    r"(access|account|client|encryption|license|master|shared|signing|storage)_?key",
    re.IGNORECASE,
)
"""Names of secret values, without ordinary words that contain one, like `author` and `compass`."""
URL_PASSWORD = re.compile(r"""\b(\w+://[^/\s:@'"]*):[^\s/'"]+@""")
WEBHOOK = re.compile(r"""(webhook[\w.-]{0,60}["']?\s*[:=]\s*["']?\w+://[^/\s'"]+/)[^\s'",]+""", re.IGNORECASE)
"""The path of a webhook is a secret: everyone who knows it can post to it."""
CONNECTION_PART = re.compile(r"""(?<![\w.-])([A-Za-z_][\w.-]{0,60})(\s?=\s?)([^;&\s'"]+)""")
"""One part of a connection string: `Server=db;Password=…`."""
TOKEN_SHAPES = re.compile(
    "|".join(
        (
            r"-----BEGIN [A-Z ]*PRIVATE KEY",
            r"AGE-SECRET-KEY-1[0-9A-Z]{20,}",
            r"\banv_\w+|\banv\d+-[\w-]{40,}",  # ours: tokens and join codes
            r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b",  # AWS
            r"\bAIza[\w-]{30,}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}",  # Google
            r"\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}",
            r"\bgl(?:pat|dt|rt|ptt|soat|ft|imt|cbt|agent|oas)-[\w-]{16,}",  # GitLab
            r"\b(?:npm|hf|nfp|sntrys|sbp|fio)_(?=[a-zA-Z]{0,80}\d)[A-Za-z0-9]{20,}|\bhf_[A-Za-z]{30,}",
            r"\bpypi-[\w-]{40,}|\bdckr_(?:pat|oat)_[\w-]{20,}",
            r"\bSWM(?:TKN|KEY)-1-[\w/+-]{20,}",  # Docker Swarm
            r"\bsk-[\w-]{16,}",  # OpenAI, Anthropic and others
            r"\b[rs]k_(?:live|test)_\w{16,}|\bwhsec_[\w+/]{20,}",  # Stripe
            r"\bxox[abeoprs]-[\w-]{10,}|\bxapp-\d-[\w-]{20,}",  # Slack
            r"\bhooks\.slack\.com/\w+/[\w/-]+|\bdiscord(?:app)?\.com/api/(?:v\d+/)?webhooks/\d+/[\w-]+",
            r"\.webhook\.office\.com/[\w/@-]+",
            # Telegram; digits and a colon are common elsewhere, so both upper and lower case must follow.
            r"(?<![\w.:])(?:bot)?\d{6,12}:(?=[\w-]{0,80}[A-Z])(?=[\w-]{0,80}[a-z])[\w-]{30,}",
            r"\bSG\.[\w-]{16,}\.[\w-]{16,}|\bSK[0-9a-f]{32}\b",  # SendGrid, Twilio
            r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|\bdo[opr]_v1_[0-9a-f]{32,}|\bhv[sbr]\.[\w-]{20,}",
            r"\b(?:tskey|lin_api|ntn|glsa|glc|dapi|NRAK|pscale_(?:tkn|pw|oauth)|dp\.\w{2,4}\.)[-_.]?(?=[\w-]{0,80}\d)[\w-]{24,}",
            r"\beyJ[\w-]{10,}\.[\w-]{10,}\.",  # JSON web tokens
        )
    )
)
"""Token formats of well-known services."""
HIDDEN = "<hidden>"


def redact_environment(environment: Iterable[str]) -> list[str]:
    """Redact the secret values in `NAME=value` entries."""
    return [_redact_entry(entry) for entry in environment]


def is_token_count(name: str, value: str) -> bool:
    """Whether a value is a count of tokens, as language models and their servers log it."""
    return "tokens" in name.lower() and value.rstrip(",;)}]").isdecimal()


def _redact_entry(entry: str) -> str:
    name, separator, value = entry.partition("=")
    if not separator or not value:
        return entry
    if (SECRET_NAMES.search(name) and not is_token_count(name, value)) or TOKEN_SHAPES.search(value):
        return f"{name}={HIDDEN}"
    value = CONNECTION_PART.sub(_redact_part, URL_PASSWORD.sub(_redact_login, value))
    return WEBHOOK.sub(rf"\1{HIDDEN}", f"{name}={value}")


def _redact_part(match: re.Match[str]) -> str:
    return (
        f"{match[1]}{match[2]}{HIDDEN}"
        if SECRET_NAMES.search(match[1]) and not is_token_count(match[1], match[3])
        else match[0]
    )


def _redact_login(match: re.Match[str]) -> str:
    return f"{match[1]}:{HIDDEN}@"
