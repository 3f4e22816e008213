"""Secrets in logs, environments, command output and the audit log are hidden; ordinary text is not."""

from __future__ import annotations

import base64
import random
import time
import unicodedata
from contextlib import aclosing

import anyio.to_thread
import pytest
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import text
from anvyl_mcp.core.redaction.key_blocks import redact_key_blocks
from anvyl_mcp.core.redaction.redact_env import HIDDEN, redact_environment
from anvyl_mcp.core.redaction.redact_text import redact_arguments, redact_lines, redact_text
from anvyl_mcp.core.settings import load
from tests.server.tools.test_tools import call
from tests.support.engine.engines import RealEngine

BODY = base64.b64encode(random.Random(7).randbytes(48 * 5 + 31)).decode()
WIDTH = 64
LINES = [BODY[at : at + WIDTH] for at in range(0, len(BODY), WIDTH)]
BEGIN, END = "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"
CERTIFICATE = ["-----BEGIN CERTIFICATE-----", *LINES, "-----END CERTIFICATE-----"]

PREFIXES = {
    "bare": "",
    "stamped": "2026-11-28T20:00:00.123Z ",
    "compose": "web-1  | ",
    "logger": "2026-11-28 20:00:00 INFO vault: ",
    "json": '{"log":"',
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
@pytest.mark.parametrize("first", range(len(LINES) + 1))
def test_no_line_of_a_private_key_is_shown_wherever_the_page_begins(prefix: str, first: int) -> None:
    """Once the line with BEGIN was hidden, but the lines of the key were shown."""
    end = '","stream":"stdout"}' if prefix.startswith("{") else ""
    block = [f"{prefix}{line}{end}" for line in [BEGIN, *LINES, END]]
    page = ["GET /health 200", *block][first + (1 if first else 0) :]

    shown = "\n".join([*redact_lines(page), redact_text("\n".join(page))])

    assert not [line for line in LINES if line in shown]
    assert first or "GET /health 200" in shown


def test_unrelated_lines_inside_a_key_are_shown() -> None:
    page = [BEGIN, LINES[0], "server started on port 80", LINES[1], "GET /a 200", *LINES[2:], END, "ready"]

    shown = redact_lines(page)

    assert not [line for line in LINES if line in "\n".join(shown)]
    assert [shown[2], shown[4], shown[-1]] == ["server started on port 80", "GET /a 200", "ready"]


@pytest.mark.parametrize("width", [48, 60, 64, 70, 76])
@pytest.mark.parametrize("kind", ["RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "EC PRIVATE KEY"])
def test_keys_of_every_kind_and_width_are_hidden(kind: str, width: int) -> None:
    body = [BODY[at : at + width] for at in range(0, len(BODY), width)]

    shown = "\n".join(redact_lines([f"-----BEGIN {kind}-----", *body, f"-----END {kind}-----", "after"]))

    assert not [line for line in body if line in shown]
    assert shown.endswith("after")


def test_certificates_digests_and_paths_are_not_hidden_as_keys() -> None:
    harmless = [
        *CERTIFICATE,
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "integrity sha384-oqVuAfXRKap7fdgcCY5uykM6+R9GqQ8K/uxy9rx7HNQlGYl1kPzQho1wx4JwY8wC",
        "/usr/lib/x86_64-linux-gnu/perl/5.36.0/CORE/config",
        "started",
        "commit 9b2f5ce4d2a7be541e0351c8d8a906cfabb9c23ae7c6aea50d048629d426ccdd",
    ]

    assert redact_key_blocks(harmless) == harmless
    assert redact_lines(harmless) == harmless


TOKENS = {
    "gitlab": "glpat-" + "x9Yk2LmQ8rTzWv4bN7cd",
    "npm": "npm_" + "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8",
    "google": "AIza" + "SyD4k9mPq2Rs7tUv1Wx3Yz5Ab8Cd0Ef6Gh7Ij",
    "github": "ghp_" + "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8",
    "github fine": "github_pat_" + "11ABCDEFG0aBcDeFgHiJkLmNoPqRsTuVwXyZ",
    "aws": "AKIA" + "IOSFODNN7EXAMPLE",
    "slack": "xoxb-" + "123456789012-abcdefGHIJKL",
    "slack webhook": "https://hooks.slack.com/services/" + "T0000000/B1111111/abcdEFGHijklMNOPqrst",
    "discord webhook": "https://discord.com/api/webhooks/" + "123456789012345678/abc-DEF_ghijklmnop",
    "telegram": "123456:" + "ABC-DEF1234ghIkl-zyx57W2v1u123ew11",
    "telegram url": "https://api.telegram.org/bot" + "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/sendMessage",
    "stripe": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "sendgrid": "SG." + "abcdefghijklmnopqrstuv.ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefg",
    "hugging face": "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "docker": "dckr_pat_" + "abcdefghijklmnopqrstuvwxyz0",
    "vault": "hvs." + "CAESIJlU9JMYEhOPYv4igdhm9PnZDrabYTobQ4Ym",
    "tailscale": "tskey-auth-" + "k1A2b3C4d5CNTRL-abcdefghijklmnop1234567",
    "join code": "anv1-" + "Yk2LmQ8rTzWv4bN7cdYk2LmQ8rTzWv4bN7cdYk2LmQ8rTzWv4bN7cd",
    "our token": "anv_" + "1a2b3c4d_Yk2LmQ8rTzWv4bN7cd",
}


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
@pytest.mark.parametrize("form", ["{}", "login with {} failed", "curl '{}'", '{{"value": "{}"}}'])
def test_tokens_of_known_services_are_hidden_by_their_format(token: str, form: str) -> None:
    """Under any name: in logs, command lines, saved conversations and environments."""
    secret = token.rpartition("/")[2] if "bot1102" not in token else "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
    line = form.format(token)

    assert secret not in redact_text(line)
    assert secret not in redact_text(line)
    assert secret not in str(redact_arguments({"command": line}))
    assert secret not in redact_environment([f"PLAIN={token}"])[0]


@pytest.mark.parametrize(
    "entry",
    [
        "WEBHOOK_URL=https://example.com/in/{}",
        "SLACK_WEBHOOK=https://chat.example.com/hooks/{}",
        "TELEGRAM={}",
        "DB_CRED={}",
        "REGISTRY_CREDS={}",
        "JENKINS_PSW={}",
        "AZURE_PAT={}",
        "STORAGE_ACCOUNT_KEY={}",
        "MYSQLPASS={}",
        "OAUTH={}",
        "SERVICE_AUTHORIZATION={}",
        "DATABASE=Server=db;User Id=sa;Password={};Encrypt=true",
        "STORAGE=DefaultEndpointsProtocol=https;AccountKey={}==;EndpointSuffix=core",
        "DATABASE=host=db password={} dbname=app",
        "CALLBACK=https://example.com/in?user=a&api_key={}&x=1",
    ],
)
def test_values_are_hidden_by_their_names(entry: str) -> None:
    planted = entry.format("hunter2geheim")

    assert "hunter2geheim" not in redact_environment([planted])[0]
    assert "hunter2geheim" not in redact_text(f"starting with {planted} now")


@pytest.mark.parametrize(
    "line",
    [
        "password => {}",
        "<ApiKey>{}</ApiKey>",
        "  <password>{}</password>",
        "'db_password' => '{}',",
        "machine registry.example login bob password {}",
        "the initial password is {}",
        "https://account.blob.example/backup?sv=2026&sig={}&se=1",
    ],
)
def test_values_in_the_notations_of_configuration_files_are_hidden(line: str) -> None:
    assert "hunter2geheim" not in redact_text(line.format("hunter2geheim"))


@pytest.mark.parametrize(
    "harmless",
    [
        "usage: login <user> <password>",
        "the password is wrong, try again",
        "password authentication failed for user bob",
        "OPTIONS=mode=fast;retries=5",
        "AUTHOR=Jane",
        "COMPASS_URL=http://compass:80/x",
        "BYPASS_PROXY=localhost",
        "PASSENGER_MAX_POOL_SIZE=6",
        "TOKENIZERS_PARALLELISM=false",
        "MODE=fast",
        "WEBHOOK_ENABLED=true",
        "CREDITS=Anna",
        "npm_config_registry_for_everything=here",
        "npm_package_dependencies_something_long=1",
        "author: Jane Doe",
        "MAX_TOKENS=4096",
        "prompt_tokens: 1200, completion_tokens=56",
        "12 tests passed: all of them",
        "1732817000:started-the-nightly-backup-of-everything",
        "2026-11-28T20:00:00Z INFO listening on 0.0.0.0:8080",
        "550e8400-e29b-41d4-a716-446655440000",
        "risk-averse-and-calm-people",
        "GET /api/webhooks/list 200",
    ],
)
def test_ordinary_words_are_shown(harmless: str) -> None:
    assert redact_text(harmless) == harmless
    assert redact_environment([harmless]) == [harmless] or " " in harmless


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "A1",
        "a-",
        "password is a",
        "&sig=",
        "/",
        "=",
        "webhook",
        "npm_",
        "tskey-",
        "1:",
        "123456:",
        "-----BEGIN ",
        "x=",
        "eyJ",
        '"',
    ],
)
def test_redaction_time_is_linear_in_the_length_of_a_line(unit: str) -> None:
    """A log line must not keep the server busy; the limit is generous, but below quadratic time."""
    started = time.process_time()

    redact_text(unit * (64_000 // len(unit)))

    assert time.process_time() - started < 5


async def test_hidden_secrets_cannot_be_found_by_searching_a_log(engine: RealEngine) -> None:
    """Searching for a secret would reveal it letter by letter."""
    logged = ["password=hunter2geheim", "password page served", BEGIN, *LINES, END, "ready"]
    engine.run("app", ["sh", "-c", "; ".join(f"echo '{line}'" for line in logged)])
    await anyio.to_thread.run_sync(engine.api.wait, "app")

    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
        by_guess = [await call(client, "get_container_logs", name="app", grep=word) for word in ("hunter2", "word=h")]
        by_word = await call(client, "get_container_logs", name="app", grep="password")
        by_key = [await call(client, "get_container_logs", name="app", grep=line[:12]) for line in LINES]
        whole = await call(client, "get_container_logs", name="app")

    assert [one["lines"] for one in (*by_guess, *by_key)] == [[]] * (2 + len(LINES))
    assert by_word["lines"] == [f"password={HIDDEN}", "password page served"]
    assert not [line for line in LINES if line in str(whole)]


VISIBLE = frozenset([*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD])
"""Format characters that are visible."""
FILLERS = [
    0x34F,
    0x115F,
    0x1160,
    0x17B4,
    0x17B5,
    0x2065,
    0x3164,
    0xFFA0,
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
]


def test_no_invisible_character_reaches_users_or_models() -> None:
    """U+2028, soft hyphens, variation selectors and fillers can carry text that only a model reads."""
    formats = [n for n in range(0x110000) if unicodedata.category(chr(n)) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    unseen = {*formats, *FILLERS} - VISIBLE - {0x9, 0xA}

    assert [hex(number) for number in sorted(unseen) if text.clean(f"a{chr(number)}b") != "ab"] == []


@pytest.mark.parametrize(
    "words", ["Grüße, çà et là", "日本語 한국어", "مرحبا ١٢٣", "שלום", "नमस्ते", "a\tb\nc", "→ ✓ │ ½ €", "👍 🚀", "⠀⠿"]
)
def test_visible_text_is_kept(words: str) -> None:
    assert text.clean(words) == words
