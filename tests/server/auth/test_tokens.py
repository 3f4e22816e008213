"""Tokens and invitations: stored as hashes, revoked at once, and never valid in a damaged file."""

from __future__ import annotations

import json
import os
import resource
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from anvyl_mcp.core.errors import AnvylError, ConfigInvalid, Conflict, Denied, InvalidInput, NotFound
from anvyl_mcp.server.auth.callers import implied_scopes, parse_scopes
from anvyl_mcp.server.auth.invite_store import BootTime, InviteStore, boot_time
from anvyl_mcp.server.auth.tokens import Token, Tokens

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Clock:
    """A wall clock that tests set."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(tmp_path: Path, clock: Clock) -> Tokens:
    return Tokens(tmp_path / "trust", clock=clock)


@contextmanager
def full_disk() -> Iterator[None]:
    """Make every write fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_token_grants_its_scopes_and_its_text_is_not_stored(tokens: Tokens) -> None:
    token, text = tokens.create("laptop", ["operate"])

    assert text.startswith(f"anv_{token.id}_") and len(text) == len(f"anv_{token.id}_") + 43
    assert tokens.verify(text) == token
    assert token.scopes == {"read", "operate"}
    secret = text.removeprefix(f"anv_{token.id}_")
    assert not any(secret in file.read_text() for file in tokens.path.parent.iterdir() if file.is_file())


def test_files_are_for_their_owner_only(tokens: Tokens) -> None:
    _, text = tokens.create("laptop", ["read"])
    tokens.verify(text)
    InviteStore(tokens.path.parent).create(["read"], 60)

    assert tokens.path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.name for file in tokens.path.parent.iterdir()} >= {"tokens.json", "tokens-used.json", "invites.json"}
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in tokens.path.parent.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes files of others")
def test_files_written_by_root_belong_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)

    Tokens(tmp_path).create("laptop", ["read"])

    assert {file.stat().st_uid for file in tmp_path.iterdir()} == {65534}


def test_a_wrong_secret_an_unknown_id_and_garbage_are_refused(tokens: Tokens) -> None:
    token, text = tokens.create("laptop", ["exec"])
    wrong = [text[:-1], text + "A", text[:-1] + ("B" if text[-1] == "A" else "A"), text.swapcase(), ""]
    wrong += [f"anv_00000000_{text[13:]}", f"anv_{token.id}", f"anv_{token.id}_", "anv_", "anv__", "\ud800", "ä" * 99]

    assert [tokens.verify(one) for one in wrong] == [None] * len(wrong)


def test_a_token_revoked_by_another_process_is_refused_at_once(tokens: Tokens, clock: Clock) -> None:
    _, text = tokens.create("laptop", ["read"])
    assert tokens.verify(text)

    Tokens(tokens.path.parent, clock=clock).revoke("laptop")

    assert tokens.verify(text) is None
    assert tokens.list() == []
    known = tokens.find(text)
    assert known is not None and "`laptop` was revoked on 2026-11-23" in str(tokens.refusal(known))


def test_every_change_by_another_process_is_noticed_however_fast(tokens: Tokens, clock: Clock) -> None:
    other = Tokens(tokens.path.parent, clock=clock)
    for _ in range(50):
        _, text = other.create("same", ["read"])
        assert tokens.verify(text)
        other.revoke("same")
        assert tokens.verify(text) is None


def test_a_token_expires_on_time(tokens: Tokens, clock: Clock) -> None:
    token, text = tokens.create("guest", ["read"], NOON + timedelta(hours=1))

    clock.now = NOON + timedelta(minutes=59)
    assert tokens.verify(text) == token
    clock.now = NOON + timedelta(hours=1)
    assert tokens.verify(text) is None
    assert "expired on 2026-11-23" in str(tokens.refusal(token))


def test_the_list_shows_when_and_from_where_a_token_was_last_used(tokens: Tokens, clock: Clock) -> None:
    _, text = tokens.create("laptop", ["read"])
    uses = tokens.path.parent / "tokens-used.json"

    tokens.verify(text, address="192.0.2.1")
    first = uses.read_bytes()
    clock.now += timedelta(seconds=59)
    tokens.verify(text, address="192.0.2.2")
    assert uses.read_bytes() == first
    clock.now += timedelta(seconds=1)
    tokens.verify(text, address="192.0.2.3")

    [shown] = tokens.list()
    assert (shown.last_used, shown.last_address) == (NOON + timedelta(minutes=1), "192.0.2.3")
    assert shown.as_dict()["last_used"] == "2026-11-23T12:01:00Z"


def test_an_unusable_last_use_file_does_not_affect_tokens(tokens: Tokens) -> None:
    token, text = tokens.create("laptop", ["read"])

    with full_disk():
        assert tokens.verify(text) == token
    (tokens.path.parent / "tokens-used.json").write_text('{"torn', encoding="utf-8")
    assert tokens.list() == [token]


def test_a_full_disk_does_not_change_the_tokens(tokens: Tokens) -> None:
    token, text = tokens.create("laptop", ["read"])
    before = tokens.path.read_bytes()

    with full_disk(), pytest.raises(ConfigInvalid, match=r"tokens\.json cannot be written: File too large"):
        tokens.revoke("laptop")

    assert tokens.path.read_bytes() == before
    assert tokens.verify(text) == token


def test_a_truncated_file_refuses_every_token_and_is_not_changed(tokens: Tokens, clock: Clock) -> None:
    _, text = tokens.create("laptop", ["exec"])
    _, gone = tokens.create("gone", ["exec"])
    tokens.revoke("gone")
    whole = tokens.path.read_bytes()

    for length in range(len(whole)):
        tokens.path.write_bytes(whole[:length])
        reader = Tokens(tokens.path.parent, clock=clock)
        attempts: list[Callable[[], object]] = [reader.list, partial(reader.verify, text)]
        attempts.append(partial(reader.create, "new", ["read"]))
        for attempt in attempts:
            with pytest.raises(ConfigInvalid, match=r"tokens\.json is damaged and not used"):
                attempt()
        assert tokens.path.read_bytes() == whole[:length]
    tokens.path.write_bytes(whole)
    assert tokens.verify(text) is not None and tokens.verify(gone) is None


def test_no_single_wrong_byte_adds_scopes_or_revives_a_token(tokens: Tokens, clock: Clock) -> None:
    _, text = tokens.create("reader", ["read"], NOON + timedelta(days=1))
    _, gone = tokens.create("gone", ["exec"])
    tokens.revoke("gone")
    whole = tokens.path.read_bytes()
    clock.now += timedelta(hours=1)

    for place in range(len(whole)):
        tokens.path.write_bytes(whole[:place] + b"~" + whole[place + 1 :])
        reader = Tokens(tokens.path.parent, clock=clock)
        for one in (text, gone):
            found = verified(reader, one)
            assert found is None or (one == text and found.scopes <= {"read"}), place


def verified(tokens: Tokens, text: str) -> Token | None:
    try:
        return tokens.verify(text)
    except ConfigInvalid:
        return None


@pytest.mark.parametrize(
    "content",
    [
        *("null", "[]", "3", "[" * 100_000, "\ufeff{}", '{"version": 1}', '{"version": 2, "tokens": {}}'),
        '{"version": 1, "tokens": []}',
        '{"version": 1, "tokens": {"a": {"name": "x", "scopes": "exec", "created": 1}}}',
    ],
)
def test_malformed_content_is_reported_as_damage(tokens: Tokens, content: str) -> None:
    tokens.create("laptop", ["read"])
    tokens.path.write_text(content, encoding="utf-8")

    with pytest.raises(ConfigInvalid, match="is damaged"):
        tokens.verify("anv_a_b")


def test_a_file_that_others_may_write_is_not_used(tokens: Tokens) -> None:
    _, text = tokens.create("laptop", ["read"])
    assert tokens.verify(text)

    tokens.path.chmod(0o602)

    with pytest.raises(ConfigInvalid, match="can be changed by other users") as raised:
        tokens.verify(text)
    assert raised.value.hint.endswith(f"chmod 600 {tokens.path}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_not_used(tokens: Tokens) -> None:
    _, text = tokens.create("laptop", ["read"])
    os.chown(tokens.path, 65534, 65534)

    with pytest.raises(ConfigInvalid, match="belongs to another user"):
        tokens.verify(text)


def test_names_are_unique_and_can_be_reused(tokens: Tokens) -> None:
    first, _ = tokens.create("nas", ["read"])
    with pytest.raises(Conflict, match="a token `nas` already exists"):
        tokens.create("nas", ["read"])
    second, _ = tokens.create("nas", ["read"], rename=True)

    assert second.name == "nas-2"
    assert tokens.revoke(first.id).name == "nas"
    assert tokens.create("nas", ["read"])[0].name == "nas"


def test_invalid_tokens_are_refused_before_anything_is_written(tokens: Tokens) -> None:
    for name in ("", "a b", "../x", "ä", "x" * 65, "nas\n"):
        with pytest.raises(InvalidInput, match="not a valid token name"):
            tokens.create(name, ["read"])
    with pytest.raises(InvalidInput, match="at least one scope"):
        tokens.create("x", ["root"])
    with pytest.raises(InvalidInput, match="already passed"):
        tokens.create("x", ["read"], NOON)
    with pytest.raises(NotFound, match="no token `x`"):
        tokens.revoke("x")

    assert tokens.list() == []


def test_a_revoked_token_is_deleted_after_a_while(tokens: Tokens, clock: Clock) -> None:
    _, text = tokens.create("old", ["read"])
    tokens.revoke("old")
    tokens.create("other", ["read"])
    clock.now += timedelta(days=91)

    tokens.revoke("other")

    assert tokens.find(text) is None


def test_a_scope_includes_the_lesser_ones() -> None:
    assert implied_scopes(["exec"]) == {"read", "operate", "exec"}
    assert implied_scopes(["operate", "nonsense"]) == {"read", "operate"}
    assert implied_scopes([]) == frozenset()
    assert parse_scopes(" Read, operate") == {"read", "operate"}
    with pytest.raises(InvalidInput, match="`exce` is not a scope") as raised:
        parse_scopes("read,exce")
    assert "`exec`" in raised.value.hint


class BootClock:
    """A boot clock that tests set."""

    def __init__(self) -> None:
        self.now = BootTime("boot-1", 1000.0)

    def __call__(self) -> BootTime:
        return self.now

    def later(self, seconds: float) -> None:
        self.now = BootTime(self.now.boot, self.now.seconds + seconds)


@pytest.fixture
def boot() -> BootClock:
    return BootClock()


@pytest.fixture
def invites(tokens: Tokens, boot: BootClock) -> InviteStore:
    return InviteStore(tokens.path.parent, tokens, clock=boot)


def test_an_invitation_can_be_redeemed_once(invites: InviteStore, tokens: Tokens) -> None:
    secret = invites.create(["read", "operate"], 900)

    token, text = invites.redeem(secret, "laptop")

    assert len(secret) == 16
    assert tokens.verify(text) == token
    assert token.name == "laptop" and token.scopes == {"read", "operate"}
    with pytest.raises(Denied, match="already been used by `laptop`") as raised:
        invites.redeem(secret, "mallory")
    assert "anvyl-mcp invite" in raised.value.hint
    assert secret.hex() not in (tokens.path.parent / "invites.json").read_text()


def test_of_concurrent_redemptions_one_succeeds(tokens: Tokens, boot: BootClock) -> None:
    folder = tokens.path.parent
    secret = InviteStore(folder, tokens, clock=boot).create(["read"], 900)

    def redeem(number: int) -> bool:
        try:
            InviteStore(folder, clock=boot).redeem(secret, f"host-{number}")
        except Denied:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(redeem, range(16))) == [False] * 15 + [True]
    assert len(tokens.list()) == 1


def test_only_the_exact_secret_is_accepted(invites: InviteStore) -> None:
    real = invites.create(["read"], 60)

    for wrong in (bytes(16), b"", real[:-1], real + b"\0", "", "ä", "not base64!", "A" * 22, real.hex()):
        with pytest.raises(Denied, match="not from this host"):
            invites.redeem(wrong, "laptop")
    assert invites.redeem(urlsafe_b64encode(real).rstrip(b"=").decode(), "laptop")


@pytest.mark.parametrize(("seconds", "works"), [(0, True), (899, True), (900, False), (-1, False), (10**6, False)])
def test_an_invitation_expires_by_the_boot_clock(
    invites: InviteStore, boot: BootClock, seconds: int, works: bool
) -> None:
    secret = invites.create(["read"], 900)
    boot.later(seconds)

    if works:
        assert invites.redeem(secret, "laptop")
    else:
        with pytest.raises(Denied, match="has expired"):
            invites.redeem(secret, "laptop")


def test_an_invitation_expires_with_a_reboot(invites: InviteStore, boot: BootClock) -> None:
    secret = invites.create(["read"], 900)
    boot.now = BootTime("boot-2", boot.now.seconds)

    with pytest.raises(Denied, match="has expired"):
        invites.redeem(secret, "laptop")
    invites.create(["read"], 900)
    with pytest.raises(Denied, match="not from this host"):
        invites.redeem(secret, "laptop")


def test_the_real_boot_clock_advances_and_has_a_boot_id() -> None:
    first, second = boot_time(), boot_time()

    assert first.boot == second.boot and first.seconds <= second.seconds


def test_an_invalid_name_does_not_use_up_the_invitation(invites: InviteStore) -> None:
    secret = invites.create(["read"], 900)
    with pytest.raises(InvalidInput):
        invites.redeem(secret, "../../etc")

    assert invites.redeem(secret, "laptop")


def test_the_same_host_may_join_twice(invites: InviteStore) -> None:
    names = [invites.redeem(invites.create(["read"], 60), "laptop")[0].name for _ in range(3)]

    assert names == ["laptop", "laptop-2", "laptop-3"]


def test_a_full_disk_creates_no_token(invites: InviteStore, tokens: Tokens) -> None:
    secret = invites.create(["read"], 900)

    with full_disk(), pytest.raises(AnvylError, match="cannot be written"):
        invites.redeem(secret, "laptop")

    assert tokens.list() == []
    assert invites.redeem(secret, "laptop")


def test_an_invitation_is_marked_used_before_its_token_exists(invites: InviteStore, tokens: Tokens) -> None:
    secret = invites.create(["read"], 900)
    tokens.create("first", ["read"])
    tokens.path.write_text("torn", encoding="utf-8")

    with pytest.raises(ConfigInvalid):
        invites.redeem(secret, "laptop")
    tokens.path.unlink()

    with pytest.raises(Denied, match="already been used"):
        invites.redeem(secret, "laptop")


def test_a_damaged_invitation_file_accepts_no_code(invites: InviteStore) -> None:
    secret = invites.create(["exec"], 900)
    file = invites._file.path
    entry = json.loads(file.read_text(encoding="utf-8"))
    for damage in ("", "{}", "[1]", json.dumps(entry)[:-1], json.dumps(entry | {"version": 9})):
        file.write_text(damage, encoding="utf-8")
        with pytest.raises(ConfigInvalid, match=r"invites\.json is damaged"):
            invites.redeem(secret, "laptop")


def test_an_invitation_needs_scopes_and_a_lifetime(invites: InviteStore) -> None:
    for scopes, seconds in ((["read"], 0), ([], 60), (["root"], 60)):
        with pytest.raises(InvalidInput):
            invites.create(scopes, seconds)
