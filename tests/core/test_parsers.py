"""Property tests of parsers: every allowed spelling is parsed, and anything else is rejected."""

from __future__ import annotations

import ipaddress
import shlex
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.server import commands
from anvyl_mcp.server.containers.create import RunOptions
from anvyl_mcp.server.containers.summary import short_image, short_ports
from anvyl_mcp.server.engine.logs.frames import parse_lines

settings.register_profile("same every time", derandomize=True, database=None, deadline=None, max_examples=100)
settings.load_profile("same every time")

LISTS = ("published", "env", "volumes", "labels")
OPTIONS = (*LISTS, "command", "restart", "network", "memory", "cpus")
PIECES = (
    "8080", "80", "65535", "65536", "0", "/tcp", "/udp", "/", ":", "127.0.0.1", "[::1]", "512", "1.5", "k", "m", "GiB",
    "1h30m", "days", "KEY", "=", "value", "/data", ":ro", ",", "-", "..", "٣", "²", "inf", "nan", "1e309", "9" * 400,
    "'", '"', "\\", "\n", "\0", " ", "é", "\u202e", "\ud800", "$(x)", "sh -c ",
)  # fmt: skip
typed = st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=20)
number = st.integers(1, 65535)
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
name = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,12}", fullmatch=True)
folder = st.from_regex(r"(/[a-z0-9 _.-]{1,8}){1,3}", fullmatch=True)


def parsed(**given: Any) -> RunOptions:
    return RunOptions.parse(**{option: given.get(option, [] if option in LISTS else "") for option in OPTIONS})


@given(st.integers(0, 10**6), st.sampled_from("kmgtKMGT"), st.sampled_from(["", "b", "B", "ib", "iB"]), st.booleans())
def test_a_size_is_parsed_in_every_spelling(count: int, unit: str, end: str, spaced: bool) -> None:
    assert text.parse_size(f"{count}{' ' * spaced}{unit}{end}") == count * 1024 ** (" kmgt".index(unit.lower()))


@given(st.integers(0, 2**62))
def test_a_formatted_size_parses_to_nearly_the_same_number(count: int) -> None:
    read = text.parse_size(text.format_size(count))

    assert read is not None and abs(read - count) <= max(1, count * 0.01)


@given(
    st.integers(0, 999),
    st.integers(0, 99),
    st.integers(0, 99),
    st.sampled_from(["{}h{}m{}s", "{} hours, {} min {} sec"]),
)
def test_a_duration_is_parsed_in_every_spelling(hours: int, minutes: int, seconds: int, form: str) -> None:
    assert text.parse_duration(form.format(hours, minutes, seconds)) == hours * 3600 + minutes * 60 + seconds


@given(typed)
@example("9" * 5000 + "k")
@pytest.mark.parametrize("parse", [text.parse_size, text.parse_duration])
def test_any_text_parses_to_a_positive_number_or_none(parse: Callable[[str], int | None], given: str) -> None:
    found = parse(given)

    assert found is None or found >= 0


@given(
    number,
    number,
    st.sampled_from(["tcp", "udp", "sctp", ""]),
    st.none() | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
def test_a_port_mapping_is_parsed_in_every_form(outer: int, inner: int, protocol: str, address: str | None) -> None:
    form = f"{f'{address}:' if address else ''}{outer}:{inner}{f'/{protocol}' if protocol else ''}"

    assert parsed(published=[form]).host["port_bindings"] == {
        f"{inner}/{protocol or 'tcp'}": [((address or "").strip("[]"), str(outer))]
    }


@given(number, st.sampled_from(["", "/udp"]))
def test_a_host_port_alone_has_no_binding_yet(port: int, protocol: str) -> None:
    found = parsed(published=[f"{port}{protocol}"])

    assert [(one.host_port, one.protocol) for one in found.image_decided] == [(str(port), protocol.strip("/"))]
    assert "port_bindings" not in found.host


@given(folder | name, folder, st.sampled_from(["", ":ro", ":rw", ":ro,z"]))
def test_a_mount_is_not_changed(source: str, target: str, mode: str) -> None:
    assert parsed(volumes=[f"{source}:{target}{mode}"]).host["binds"] == [f"{source}:{target}{mode}"]


@given(name, words)
def test_everything_after_the_first_equals_sign_is_the_value(key: str, value: str) -> None:
    found = parsed(env=[f"{key}={value}"], labels=[f"{key}={value}"])

    assert (found.environment, found.labels) == ([f"{key}={value}"], {key: value})


@given(st.lists(words, min_size=1, max_size=5))
def test_splitting_a_joined_command_returns_its_words(line: list[str]) -> None:
    assert commands.split(shlex.join(line)) == line == parsed(command=shlex.join(line)).command


@given(typed)
@example("host:80:80")
@example("\0")
@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_parsed_or_rejected_with_a_hint(option: str, given: str) -> None:
    try:
        found = parsed(**{option: [given] if option in LISTS else given})
    except InvalidInput as error:
        assert error.message and error.hint
        return
    for inner, bound in found.host.get("port_bindings", {}).items():
        assert all(0 < int(outer) <= 65535 and (not address or _is_address(address)) for address, outer in bound)
        assert 0 < int(inner.partition("/")[0]) <= 65535
    assert all(volume.split(":")[1].startswith("/") for volume in found.host.get("binds", ()))
    assert all("=" in entry[1:] for entry in found.environment)
    assert 0 <= found.host.get("nano_cpus", 0) <= 1024 * 10**9
    assert 0 <= found.host.get("mem_limit", 0) < 2**63
    assert not any("\0" in word for word in found.command)


def _is_address(given: str) -> bool:
    try:
        return bool(ipaddress.ip_address(given))
    except ValueError:
        return False


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=60)), max_size=8), st.integers(1, 50))
def test_a_log_is_the_same_for_any_size_of_chunks(messages: list[tuple[int, bytes]], size: int) -> None:
    """The network can split the frames of the engine anywhere."""
    whole = b"".join(
        struct.pack(">BxxxL", stream, len(body)) + body
        for stream, body in ((stream, b"2026-11-23T10:00:00Z " + piece) for stream, piece in messages)
    )

    in_pieces = [whole[at : at + size] for at in range(0, len(whole), size)]

    assert list(parse_lines(in_pieces, raw=False)) == list(parse_lines([whole], raw=False))


@given(st.binary(max_size=200))
def test_garbage_is_rejected_or_parsed_as_a_log(data: bytes) -> None:
    try:
        found = list(parse_lines([data], raw=False))
    except struct.error:
        return
    assert sum(len(line.text) for line in found) <= len(data)


@given(st.sets(number, max_size=60), st.integers(0, 100))
def test_shortened_ports_show_or_count_every_published_port(ports: set[int], apart: int) -> None:
    published = [f"{port}->{min(port + apart, 65535)}" for port in ports]

    shown = [part for part in short_ports(published).split(",") if part]

    covered = {
        port
        for part in shown
        if not part.startswith("+")
        for first, _, last in [part.partition("->")[0].partition("-")]
        for port in range(int(first), int(last or first) + 1)
    }
    assert covered <= ports and (covered == ports or shown[-1].startswith("+"))


@given(typed)
def test_a_shortened_image_name_is_never_longer(image: str) -> None:
    assert len(short_image(image)) <= len(image)
