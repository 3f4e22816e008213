"""Any user may open the model server's port first; another login user must get neither questions nor the key."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from anvyl_mcp.core.settings import load
from anvyl_mcp.orchestrator.models.model_choice import ModelChoice, build_model
from anvyl_mcp.orchestrator.models.servers import server_owner
from anvyl_mcp.orchestrator.models.servers.server_owner import foreign_owner
from tests.support.hosts.nodes import PYTHON, anvyl

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="becoming another user needs root on Linux"
)
NOBODY, SERVICE, DYNAMIC = 65534, 998, 61200
LISTEN = """
import os, socket, sys
uid, address = int(sys.argv[1]), sys.argv[2]
os.setgroups([]); os.setgid(uid); os.setuid(uid)
listening = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
print(listening.getsockname()[1], flush=True)
listening.settimeout(60)
try:
    while True:
        caller, _ = listening.accept()
        print(caller.recv(65536).split(b" ")[0].decode(), flush=True)
        caller.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: 12\\r\\n"
            b"Connection: close\\r\\n\\r\\n" + b'{"data": []}')
        caller.close()
except TimeoutError:
    pass
"""


@contextmanager
def listening(uid: int, address: str = "127.0.0.1") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server as another user of this machine that prints its requests; yields its URL and process."""
    process = subprocess.Popen([PYTHON, "-c", LISTEN, str(uid), address], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://localhost:{process.stdout.readline().strip()}/v1", process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_nothing_is_sent_to_another_login_user_who_listens_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANVYL_LLM_API_KEY", "a-key-of-the-person")
    with listening(NOBODY) as (url, other):
        monkeypatch.setenv("ANVYL_LMSTUDIO_URL", url)
        listed = anvyl("models")
        asked = anvyl("ask", "is everything all right with my pictures?")
        assert listed.code == 4 and "the user `nobody` of this machine listens" in listed.err
        assert "ANVYL_MODEL_USER=nobody" in listed.err
        assert "the user `nobody` of this machine listens" in asked.out + asked.err
        other.kill()
        assert other.stdout is not None and other.stdout.read() == ""


async def test_a_model_chosen_earlier_is_not_asked_there_either() -> None:
    from pydantic_ai.exceptions import ModelConnectionError
    from pydantic_ai.messages import ModelRequest
    from pydantic_ai.models import ModelRequestParameters

    with listening(NOBODY) as (url, other):
        model = build_model(load({"lmstudio_url": url}), ModelChoice("a/model", "lmstudio"))
        with pytest.raises(ModelConnectionError, match="the user `nobody` of this machine listens"):
            await model.request([ModelRequest.user_text_prompt("hello")], None, ModelRequestParameters())
        other.kill()
        assert other.stdout is not None and other.stdout.read() == ""


@pytest.mark.parametrize("uid", [0, SERVICE, DYNAMIC], ids=["root", "service user", "user of systemd's"])
def test_root_and_service_users_may_serve_models(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(uid) as (url, _):
        monkeypatch.setenv("ANVYL_LMSTUDIO_URL", url)
        assert "listens at" not in anvyl("models").err


def test_a_login_user_named_in_the_settings_may_serve_models(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(NOBODY) as (url, other):
        monkeypatch.setenv("ANVYL_LMSTUDIO_URL", url)
        monkeypatch.setenv("ANVYL_MODEL_USER", "nobody")
        assert "listens at" not in anvyl("models").err
        assert other.stdout is not None and other.stdout.readline() == "GET\n"


@pytest.mark.parametrize("address", ["0.0.0.0", "::1", "::"])
def test_every_socket_that_localhost_may_reach_is_checked(address: str) -> None:
    with listening(NOBODY, address) as (url, _):
        assert foreign_owner(url) == "nobody"
        elsewhere = url.replace("localhost", "192.0.2.1")
        assert foreign_owner(elsewhere) == foreign_owner(elsewhere.replace("192.0.2.1", "models.example")) == ""
        if address == "::1":
            assert foreign_owner(url.replace("localhost", "127.0.0.1")) == ""


def test_our_own_server_is_not_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        url = f"http://localhost:{mine.getsockname()[1]}"
        assert foreign_owner(url) == ""
        monkeypatch.setattr(os, "geteuid", lambda: 1234)
        assert foreign_owner(url) == ""
        monkeypatch.setattr(server_owner, "_first_login_user", lambda: 0)
        assert foreign_owner(url) == "root"
