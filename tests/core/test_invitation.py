"""Join codes: decoding returns what was encoded, and every damaged code is rejected."""

from __future__ import annotations

import base64
import hashlib
import random
import string
from collections.abc import Callable, Iterator

import pytest

from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.invitation import Invitation, pin_digest, pin_text

LETTERS = string.ascii_letters + string.digits + "-_"
PIN = pin_text(bytes(range(32)))
SECRET = base64.urlsafe_b64encode(bytes(range(100, 116))).rstrip(b"=").decode()
INVITATION = Invitation(("192.168.178.244:42000",), PIN, SECRET)
CODE = INVITATION.encode()


def letters(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def with_checksum(content: bytes) -> str:
    """A code with a valid checksum for arbitrary content, as an attacker could make it."""
    return "anv1-" + letters(content + hashlib.sha256(b"anvyl join code 1" + content).digest()[:4])


def some_address(dice: random.Random) -> str:
    host = dice.choice(
        [
            ".".join(str(dice.randrange(256)) for _ in range(4)),
            f"[fd00::{dice.randrange(1, 65536):x}]",
            "".join(dice.choices(string.ascii_lowercase, k=dice.randrange(1, 40))) + ".lan",
            "nas",
        ]
    )
    return f"{host}:{dice.randrange(1, 65536)}"


def some_invitations() -> Iterator[Invitation]:
    dice = random.Random(1)
    for _ in range(300):
        addresses = tuple(some_address(dice) for _ in range(dice.randrange(1, 5)))
        yield Invitation(addresses, pin_text(dice.randbytes(32)), letters(dice.randbytes(16)))


def test_decoding_returns_what_was_encoded() -> None:
    for invitation in some_invitations():
        assert Invitation.decode(invitation.encode()) == invitation


def test_a_code_for_one_address_is_short_enough_to_read_out() -> None:
    assert CODE.startswith("anv1-")
    assert len(CODE) <= 110
    assert len(Invitation(("nas.fritz.box:4200",), PIN, SECRET).encode()) <= 110


@pytest.mark.parametrize(
    "pasted",
    [
        f"  {CODE}\n",
        f'"{CODE}"',
        f"'{CODE}',",
        f"`{CODE}`.",
        f"“{CODE}”",
        f"<{CODE}>",
        f"{CODE[:40]}\n{CODE[40:80]}\r\n   {CODE[80:]}",
        f"> {CODE[:40]}\n> {CODE[40:]}",
        f"anvyl hosts add {CODE}",
        f"code: {CODE}",
        f"\ufeff{CODE[:7]}\u200b{CODE[7:]}\u00a0",
        CODE.replace("anv1-", "Anv1-"),
        CODE.replace("anv1-", "anv1–"),
        CODE.replace("anv1-", "anv1‑"),
    ],
)
def test_quotes_spaces_and_words_around_a_pasted_code_are_ignored(pasted: str) -> None:
    assert Invitation.decode(pasted) == INVITATION


def mistyped(code: str) -> Iterator[str]:
    """Each letter wrong, missing, doubled, exchanged with the next; and the code cut at each place."""
    dice = random.Random(2)
    for place in range(5, len(code)):
        other = dice.choice([letter for letter in LETTERS if letter != code[place]])
        yield code[:place] + other + code[place + 1 :]
        yield code[:place] + code[place + 1 :]
        yield code[:place] + other + code[place:]
        yield code[:place] + code[place].swapcase() + code[place + 1 :]
        yield code[:place] + code[place + 1 : place + 2] + code[place] + code[place + 2 :]
        yield code[:place]


def test_a_typo_anywhere_in_a_code_is_detected() -> None:
    for invitation in [INVITATION, *list(some_invitations())[:5]]:
        code = invitation.encode()
        for wrong in mistyped(code):
            if wrong != code:
                with pytest.raises(InvalidInput, match="damaged"):
                    Invitation.decode(wrong)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a join code"),
        ("hello", "not a join code"),
        ("anv1", "not a join code"),
        ("http://192.168.1.5:4200", "not a join code"),
        ("anv1-", "damaged"),
        ("anv1-AAAA", "damaged"),
        (CODE + "=", "damaged"),
        (CODE + "ü", "damaged"),
        ("anv1-" + "A" * 100_000, "damaged"),
        (CODE.replace("anv1-", "anv2-"), "another version"),
        ("anv" + "9" * 5000 + "-AAAA", "another version"),
    ],
)
def test_invalid_codes_are_rejected_with_one_sentence(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        Invitation.decode(text)
    assert refused.value.hint
    assert len(str(refused.value)) < 200


def test_garbage_is_rejected_without_a_crash() -> None:
    dice = random.Random(3)
    for _ in range(2000):
        text = "".join(dice.choices(string.printable + "ü–“\u200b", k=dice.randrange(120)))
        for wrong in (text, "anv1-" + text, "anv1-" + letters(dice.randbytes(dice.randrange(90)))):
            with pytest.raises(InvalidInput):
                Invitation.decode(wrong)


def test_content_with_a_valid_checksum_is_rejected_or_encodes_to_the_same_code() -> None:
    dice = random.Random(4)
    accepted = 0
    for _ in range(5000):
        kinds = dice.choice([bytes([4]), bytes([6]), bytes([0, dice.randrange(4)]), dice.randbytes(2)])
        content = dice.randbytes(48) + kinds + dice.choice([dice.randbytes, _names(dice)])(dice.randrange(24))
        code = with_checksum(content)
        try:
            invitation = Invitation.decode(code)
        except InvalidInput:
            continue
        accepted += 1
        assert invitation.encode() == code
        assert all("/" not in address and "@" not in address for address in invitation.addresses)
    assert accepted


def test_a_code_with_too_many_addresses_is_rejected() -> None:
    address = bytes([4, 192, 168, 1, 5, 16, 104])
    assert Invitation.decode(with_checksum(bytes(48) + 4 * address)).addresses == 4 * ("192.168.1.5:4200",)
    for content in (bytes(48) + 5 * address, bytes(48)):
        with pytest.raises(InvalidInput, match="damaged"):
            Invitation.decode(with_checksum(content))


def _names(dice: random.Random) -> Callable[[int], bytes]:
    return lambda size: bytes(dice.choices(b"abz.-_@/ \x00", k=size))


@pytest.mark.parametrize(
    "address",
    [
        "nas",
        "nas:",
        "nas:0",
        "nas:65536",
        "nas: 42",
        "nas:٤٢",
        ":42",
        "::1:42",
        "1.2.3:4",
        "[::1",
        "[::1%lo]:42",
        "user@nas:42",
        "http://nas:42",
        "n s:42",
        "-nas:42",
        "1.2.3.4.5:6",
        "ñas:42",
    ],
)
def test_an_invalid_address_is_rejected(address: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be in a join code"):
        Invitation((address,), PIN, SECRET).encode()


def test_a_code_holds_one_to_four_addresses() -> None:
    four = tuple(f"nas{number}:4200" for number in range(4))
    assert Invitation.decode(Invitation(four, PIN, SECRET).encode()).addresses == four
    for addresses in ((), (*four, "nas5:4200")):
        with pytest.raises(InvalidInput, match="1 to 4 addresses"):
            Invitation(addresses, PIN, SECRET).encode()


def test_addresses_are_normalized() -> None:
    written = Invitation(("NAS.lan:4200", "[FD00:0:0::1]:4200"), PIN, SECRET)
    assert Invitation.decode(written.encode()).addresses == ("nas.lan:4200", "[fd00::1]:4200")


@pytest.mark.parametrize("secret", ["", SECRET[:-1], SECRET + "A", SECRET[:-1] + "B", "é" * 22])
def test_a_secret_with_another_size_or_spelling_is_rejected(secret: str) -> None:
    with pytest.raises(InvalidInput, match="the secret"):
        Invitation(("nas:4200",), PIN, secret).encode()


def test_the_secret_is_not_in_the_repr() -> None:
    assert SECRET not in repr(INVITATION)


def test_a_pin_has_one_spelling() -> None:
    assert pin_digest(PIN) == bytes(range(32))
    assert len(PIN) == len("sha256:") + 43


@pytest.mark.parametrize(
    "pin", ["", "sha256:", PIN[:-1], PIN + "A", PIN + "=", PIN[7:], PIN.upper(), f" {PIN}", "sha256:" + "00" * 32]
)
def test_an_invalid_pin_is_rejected(pin: str) -> None:
    with pytest.raises(InvalidInput, match="is not a pin"):
        pin_digest(pin)
