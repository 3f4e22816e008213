"""Join tokens travel encrypted to the host that joins."""

from __future__ import annotations

import time

import pytest

from anvyl_mcp.core.errors import Gone, InvalidInput
from anvyl_mcp.core.redaction.redact_text import redact_text
from anvyl_mcp.server.swarm import join_secret
from anvyl_mcp.server.swarm.join_secret import JoinKeys, JoinSecret, seal

TOKEN = "SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-1awxwuwd3z9j1z3puu7rcgdbx"
SECRET = JoinSecret(TOKEN, ("10.0.0.1:2377",))


def test_only_the_host_that_announced_the_key_reads_the_token_and_only_once() -> None:
    joining, other = JoinKeys(), JoinKeys()
    key = joining.announce()
    sealed = seal(SECRET, key)

    assert TOKEN not in sealed
    assert sealed != seal(SECRET, key)
    with pytest.raises(Gone):
        other.open(key, sealed)
    assert joining.open(key, sealed) == SECRET
    with pytest.raises(Gone):
        joining.open(key, sealed)


def test_a_token_for_another_key_or_one_that_was_changed_is_refused() -> None:
    keys = JoinKeys()
    for bad in (seal(SECRET, keys.announce()), seal(SECRET, keys.announce())[:-8] + "AAAAAAA=", "", "%", "AAAA"):
        with pytest.raises(InvalidInput):
            keys.open(keys.announce(), bad)
    for key in ("", "AAAA", "é", "A" * 44):
        with pytest.raises(InvalidInput):
            seal(SECRET, key)


def test_a_key_expires_and_old_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = JoinKeys()
    first = keys.announce()
    for _ in range(join_secret.MOST_KEYS):
        last = keys.announce()
    with pytest.raises(Gone):
        keys.open(first, seal(SECRET, first))
    late = time.monotonic() + join_secret.VALID_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: late)
    with pytest.raises(Gone):
        keys.open(last, seal(SECRET, last))


def test_a_token_is_masked_wherever_text_is() -> None:
    assert TOKEN not in repr(SECRET)
    assert TOKEN not in redact_text(f"docker swarm join {TOKEN} 10.0.0.1:2377")
