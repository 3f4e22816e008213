"""Notices arrive at services that are as strict as the real ones; a failure is reported, and no secret is shown."""

from __future__ import annotations

import json
import os
import stat
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from anvyl_mcp.core.errors import ConfigInvalid, InvalidInput
from anvyl_mcp.peers.notices.channel_url import parse_channel_url
from anvyl_mcp.peers.notices.channels import Channel, make_channel
from anvyl_mcp.peers.notices.delivery import Delivery
from anvyl_mcp.peers.notices.notice import Notice
from anvyl_mcp.peers.notices.services import DeliveryFailed
from tests.support.hosts.nodes import anvyl, run_program
from tests.support.notice_services import (
    DISCORD_PATH,
    GOTIFY_TOKEN,
    NTFY_PASSWORD,
    NTFY_TOKEN,
    NTFY_USER,
    SLACK_PATH,
    Services,
    running_mail_server,
    running_services,
)

NOTICE = Notice("Problem: web on nas", "web on nas is unhealthy.", "problem", 1_800_000_000.0)
ALL_SECRETS = (
    NTFY_PASSWORD,
    NTFY_TOKEN,
    GOTIFY_TOKEN,
    "discordsecret",
    "slackSecretXyz12",
    "mattersecret123",
    "B0000BBBB",
)


@pytest.fixture(scope="module")
def running() -> Iterator[Services]:
    with running_services() as services:
        yield services


@pytest.fixture
def services(running: Services) -> Services:
    running.got.clear()
    running.fault = None
    return running


URLS = {
    "ntfy": "ntfy://{address}/open",
    "ntfy-login": f"ntfy://{NTFY_USER}:{NTFY_PASSWORD}@{{address}}/closed",
    "ntfy-token": f"ntfy://{NTFY_TOKEN}@{{address}}/closed",
    "gotify": f"gotify://{{address}}/{GOTIFY_TOKEN}",
    "discord": f"http://{{address}}{DISCORD_PATH}",
    "slack": f"http://{{address}}{SLACK_PATH}",
    "json": "json://{address}/notices/jsonSecretPath?key=querySecret",
    "http": "http://{address}/notices/jsonSecretPath",
    "mattermost": "mmost://{address}/mattersecret123",  # through Apprise
}


@pytest.mark.parametrize("name", URLS)
async def test_a_notice_arrives_in_the_shape_that_the_service_accepts(name: str, services: Services) -> None:
    await make_channel(name, URLS[name].format(address=services.address)).send(NOTICE)

    [(service, message)] = services.got
    assert service == name.partition("-")[0] or (name == "http" and service == "json")
    text = json.dumps(message)
    assert "web on nas" in text and "unhealthy" in text
    if service == "json":
        assert message["message"] == NOTICE.body and message["event"] == "problem"
    else:
        assert '"event"' not in text and "{\\" not in text, "text for people"


async def test_a_mail_arrives_with_the_title_as_subject() -> None:
    with running_mail_server() as (port, mails):
        await make_channel("mail", f"mailto://127.0.0.1:{port}?from=anvyl@home.test&to=me@home.test").send(NOTICE)

    [mail] = mails
    assert "Subject: Problem: web on nas" in mail and "web on nas is unhealthy." in mail


@pytest.mark.parametrize(
    ("command", "answer", "retry"),
    [
        ("AUTH", "535 5.7.8 wrong password", False),
        ("RCPT", "550 no such user", False),
        ("RCPT", "450 come back later", True),
    ],
)
async def test_a_refused_mail_says_why_and_is_not_repeated_if_that_cannot_help(
    command: str, answer: str, retry: bool
) -> None:
    with running_mail_server({command: answer}) as (port, mails), pytest.raises(DeliveryFailed) as failure:
        await make_channel(
            "mail", f"mailto://phil:secret99@localhost:{port}?from=anvyl@home.test&to=me@home.test"
        ).send(NOTICE)

    assert answer.partition(" ")[2] in failure.value.reason and failure.value.retry == retry
    assert "secret99" not in failure.value.reason and mails == []


async def test_names_neither_ping_people_nor_become_formatting(services: Services) -> None:
    bad = Notice("Problem: x on nas", "@everyone *x* <!channel> is unhealthy.", "problem", 0.0)

    await make_channel("discord", URLS["discord"].format(address=services.address)).send(bad)
    await make_channel("slack", URLS["slack"].format(address=services.address)).send(bad)

    (_, discord), (_, slack) = services.got
    assert discord["allowed_mentions"] == {"parse": []} and "\\*x\\*" in discord["content"]
    assert "<!channel>" not in slack["text"] and "&lt;!channel&gt;" in slack["text"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ntfy://{address}/closed", "HTTP 403: forbidden"),
        ("ntfy://phil:wrongpass99@{address}/closed", "HTTP 403: forbidden"),
        ("gotify://{address}/wrongToken77", "HTTP 401: Unauthorized"),
        ("http://{address}/api/webhooks/1/wrongToken77", "HTTP 404: Unknown Webhook"),
        ("http://{address}/services/T1/B1/wrongToken77", "HTTP 403: invalid_token"),
        ("mmost://{address}/wrongToken77", "HTTP 404"),
    ],
)
async def test_a_refusal_is_a_failure_with_its_status(url: str, reason: str, services: Services) -> None:
    with pytest.raises(DeliveryFailed) as failure:
        await make_channel("x", url.format(address=services.address)).send(NOTICE)

    assert failure.value.reason.startswith(reason) and not failure.value.retry
    assert not {"wrongToken77", "wrongpass99"} & set(failure.value.reason.replace("/", " ").split())
    assert services.got == []


@pytest.mark.parametrize("name", ["ntfy", "discord", "mattermost"])
@pytest.mark.parametrize("status", [500, 429])
async def test_a_service_that_is_busy_gets_it_later(name: str, status: int, services: Services) -> None:
    services.fault = (status, "try again")

    with pytest.raises(DeliveryFailed) as failure:
        await make_channel("x", URLS[name].format(address=services.address)).send(NOTICE)

    assert failure.value.retry and str(status) in failure.value.reason


async def test_a_reason_that_quotes_the_url_shows_no_secret(services: Services) -> None:
    services.fault = (404, {"message": f"no webhook {DISCORD_PATH} at <b>\x1b[31m"})

    with pytest.raises(DeliveryFailed) as failure:
        await make_channel("x", URLS["discord"].format(address=services.address)).send(NOTICE)

    assert "discordsecret" not in failure.value.reason and "\x1b" not in failure.value.reason


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ntfys://ntfy.sh/my-long-topic", "ntfys://ntfy.sh/my-…ic"),
        ("ntfy://my-long-topic", "ntfys://ntfy.sh/my-…ic"),
        ("https://ntfy.sh/my-long-topic", "ntfys://ntfy.sh/my-…ic"),
        (f"ntfys://{NTFY_TOKEN}@push.home/alerts", "ntfys://…@push.home/alerts"),
        ("gotifys://push.home/gotify/AsWjbUSHqp7", "gotifys://push.home/…"),
        ("discord://1234567890/qzXcVbsecret", "discord://…"),
        ("https://discord.com/api/webhooks/1234567890/qzXcVbsecret", "discord://…"),
        ("slack://T0000AAAA/B0000BBBB/slackSecret", "slack://…"),
        ("https://hooks.slack.com/services/T0000AAAA/B0000BBBB/slackSecret", "slack://…"),
        ("https://me:pass1234@hook.home:8443/path/secret?key=x", "https://…@hook.home:8443/…"),
        ("tgram://123456789:AbCdEfGhIjKlMnOpQrStUvWxYz123456789/12345", "tgram://…"),
        ("mailtos://me:pass1234@smtp.home?to=a@b.c", "mailtos://…@smtp.home"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    channel = Channel("x", parse_channel_url(url))

    assert channel.shown == shown
    assert not {"secret", "pass1234", "AsWjb", "topic", "AbCdEf"} & {
        word for word in ("secret", "pass1234", "AsWjb", "topic", "AbCdEf") if word in repr(channel).lower()
    }


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "http://",
        "ntfy://",
        "ntfys://host/a/b",
        "gotify://host",
        "discord://x/y",
        "tgram://bad",
        "a://b",
    ],
)
def test_an_unusable_url_is_refused_when_it_is_added(url: str) -> None:
    with pytest.raises(InvalidInput):
        make_channel("x", url)


def test_without_apprise_the_five_services_work_and_others_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)

    assert make_channel("phone", "ntfys://ntfy.sh/topic").url.kind == "ntfy"
    with pytest.raises(ConfigInvalid) as missing:
        make_channel("chat", "tgram://123456789:AbCdEfGhIjKlMnOpQrStUvWxYz123456789/12345")
    assert missing.value.hint.endswith("'anvyl-mcp[notify]'")


def test_channels_are_added_listed_tested_and_removed(services: Services, tmp_path: Path) -> None:
    """The whole command, as a person uses it; the only secrets are in a private file."""
    given = {name: URLS[name].format(address=services.address) for name in ("ntfy-login", "gotify", "discord")}
    added = [run_program("notify", "add", name, "-", stdin=f"{url}\n") for name, url in given.items()]
    shown = [
        anvyl("notify", "list"),
        anvyl("notify", "test"),
        anvyl("notify", "list"),
        anvyl("notify", "list", "--json"),
    ]

    assert [one.code for one in (*added, *shown)] == [0] * 7, [one.err for one in (*added, *shown)]
    assert {service for service, _ in services.got} == {"ntfy", "gotify", "discord"}
    file = tmp_path / "notify.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and NTFY_PASSWORD in file.read_text(encoding="utf-8")
    everything = "".join(one.out + one.err for one in (*added, *shown))
    assert not [secret for secret in ALL_SECRETS if secret in everything]
    others = [path for path in tmp_path.rglob("*") if path.is_file() and path != file]
    assert not [path for path in others if any(secret.encode() in path.read_bytes() for secret in ALL_SECRETS)]
    assert "never" in shown[0].out and "arrived" in shown[2].out and "nothing is watched now" in shown[0].err

    services.fault = (403, {"error": "forbidden"})
    assert anvyl("notify", "test", "gotify").code == 1
    assert "failed: HTTP 403: forbidden" in anvyl("notify", "list").out

    assert anvyl("notify", "remove", "gotify").code == 0
    assert [one["name"] for one in anvyl("notify", "list", "--json").json["channels"]] == ["ntfy-login", "discord"]
    assert "did you mean `discord`" in anvyl("notify", "remove", "discrod").err
    assert anvyl("notify", "test", "discrod", "--json").json["error"]["code"] == "not_found"


def test_a_url_on_the_command_line_works_with_a_warning() -> None:
    added = anvyl("notify", "add", "phone", "ntfys://ntfy.sh/my-long-topic")

    assert added.code == 0 and "can read the URL on a command line" in added.err
    assert "my-long-topic" not in added.err.replace("echo", "")


def test_the_url_can_be_in_the_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: dict[tuple[str, str], str] = {}
    keyring, errors = types.ModuleType("keyring"), types.ModuleType("keyring.errors")
    vars(errors)["KeyringError"] = RuntimeError
    vars(keyring).update(
        set_password=lambda service, name, value: stored.__setitem__((service, name), value),
        get_password=lambda service, name: stored.get((service, name)),
        delete_password=lambda service, name: stored.pop((service, name)),
    )
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)

    assert anvyl("notify", "add", "phone", "ntfys://ntfy.sh/my-long-topic", "--keyring").code == 0

    assert stored == {("anvyl", "notify-phone"): "ntfys://ntfy.sh/my-long-topic"}
    assert "my-long" not in (tmp_path / "notify.json").read_text(encoding="utf-8")
    assert "ntfys://ntfy.sh/my-…ic" in anvyl("notify", "list").out
    assert anvyl("notify", "remove", "phone").code == 0 and stored == {}


@pytest.mark.parametrize("content", ["{broken: secretTopic", '["secretTopic"]', '{"phone": "ntfy://a/b/secretTopic"}'])
def test_a_damaged_file_is_an_error_that_quotes_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "notify.json").write_text(content, encoding="utf-8")
    (tmp_path / "notify.json").chmod(0o600)

    done = anvyl("notify", "list")

    assert done.code == 1 and "secretTopic" not in done.err


def test_a_file_that_others_can_read_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "notify.json").write_text("{}", encoding="utf-8")
    (tmp_path / "notify.json").chmod(0o644)

    assert anvyl("notify", "list").code == 0
    assert stat.S_IMODE((tmp_path / "notify.json").stat().st_mode) == 0o600


async def test_a_service_that_is_down_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_services() as gone:
        channel = make_channel("phone", f"ntfy://{gone.address}/topic")
    delivery = Delivery(lambda: [channel], "nas", tmp_path)
    delivery.add([NOTICE], programs=False)

    for _ in range(3):
        await delivery.flush()

    assert caplog.text.count("it is sent again until it arrives") == 1
    assert delivery.undelivered() == {()}


def test_a_file_that_others_can_change_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "notify.json").write_text("{}", encoding="utf-8")
    (tmp_path / "notify.json").chmod(0o666)

    assert "can be changed by other users" in anvyl("notify", "test").err
    assert os.environ["ANVYL_HOME"] == str(tmp_path)
