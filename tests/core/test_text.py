"""Formatting of values for people and models, and sanitizing of text from containers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from anvyl_mcp.app.fleet_tools import fleet_tools
from anvyl_mcp.core import text
from anvyl_mcp.server.tool import Result, Tool, schema_of
from anvyl_mcp.server.toolsets import load_tools


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (100 * 1024, "100 KiB"),
        (1023 * 1024, "1023 KiB"),
        (1024**2 - 1, "1 MiB"),
        (402 * 1024**2, "402 MiB"),
        (1.5 * 1024**3, "1.5 GiB"),
        (23.5 * 1024**3, "23.5 GiB"),
        (2 * 1024**4, "2 TiB"),
        (5000 * 1024**4, "5000 TiB"),
        (-2048, "-2 KiB"),
    ],
)
def test_bytes_are_formatted_with_a_unit(count: float, words: str) -> None:
    assert text.format_size(count) == words


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("4096", 4096),
        ("512m", 512 * 1024**2),
        ("512M", 512 * 1024**2),
        ("1.5 GB", int(1.5 * 1024**3)),
        ("2GiB", 2 * 1024**3),
        (" 64 k ", 65536),
        ("1t", 1024**4),
        ("0", 0),
        ("10b", 10),
        ("", None),
        ("lots", None),
        ("-1m", None),
        ("1.5.2m", None),
        ("1 x", None),
        ("m", None),
        ("1e3", None),
    ],
)
def test_sizes_are_parsed(words: str, count: int | None) -> None:
    assert text.parse_size(words) == count


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("90", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("1h 30 min", 5400),
        ("2 days", 172_800),
        ("1 hour, 5 seconds", 3605),
        ("3D", 259_200),
        ("0s", 0),
        (" 5 ", 5),
        ("", None),
        ("yore", None),
        ("-5m", None),
        ("5 fortnights", None),
        ("1.5h", None),
        ("²", None),
        ("m5", None),
    ],
)
def test_durations_are_parsed(words: str, seconds: int | None) -> None:
    assert text.parse_duration(words) == seconds


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (45, "45 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (864_000, "10 days")],
)
def test_durations_are_formatted_in_the_largest_unit(seconds: float, words: str) -> None:
    assert text.format_duration(seconds) == words


def test_times_are_formatted_as_an_age() -> None:
    then = datetime.now(UTC) - timedelta(hours=3, minutes=1)

    assert text.format_age(then.isoformat()) == "3 h ago"
    assert text.format_age(then.isoformat().replace("+00:00", "Z")) == "3 h ago"
    assert text.format_age((datetime.now(UTC) + timedelta(hours=1)).isoformat()) == "0 s ago"
    assert text.format_age("0001-01-01T00:00:00Z") == text.format_age("1970-01-01T00:00:00Z") == ""
    assert text.format_age("never") == "never"
    assert text.format_age("2026-01-01T00:00:00").endswith(" ago")


@pytest.mark.parametrize(
    ("raw", "harmless"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("wéb ✓ 🐳 日本", "wéb ✓ 🐳 日本"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[38;2;1;2;3mx\x1b[K", "x"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("\x1bMup", "up"),
        ("open \x1b[", "open ["),
        ("\x9b31mred", "31mred"),
        ("bell\x07 null\x00 back\x08 delete\x7f", "bell null back delete"),
        ("over\rwritten", "overwritten"),
        ("line\r\nline", "line\nline"),
        ("a\u202eb\u2066c\u200bd\ufeffe", "abcde"),
        ("tags\U000e0041\U000e0042", "tags"),
        ("\u200f\u061c", ""),
        ("half \ud800 of a pair", "half  of a pair"),
    ],
)
def test_characters_that_hide_or_reorder_text_are_removed(raw: str, harmless: str) -> None:
    assert text.clean(raw) == harmless
    assert text.clean(harmless) == harmless
    harmless.encode()


@pytest.mark.parametrize(
    ("items", "words"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_names_are_joined_in_a_sentence(items: list[str], words: str) -> None:
    assert text.join_names(items) == words


@pytest.mark.parametrize(("count", "words"), [(0, "0 hosts"), (1, "1 host"), (2, "2 hosts")])
def test_a_count_of_one_is_singular(count: int, words: str) -> None:
    assert text.plural(count, "host") == words


@pytest.mark.parametrize(
    ("value", "schema", "words"),
    [
        (None, {}, ""),
        ("", {}, ""),
        ([], {}, ""),
        (0, {}, "0"),
        (False, {}, "no"),
        (True, {}, "yes"),
        (0, {"format": "bytes"}, "0 B"),
        (2048, {"format": "bytes"}, "2 KiB"),
        (61.4, {"format": "percent"}, "61 %"),
        (7300, {"format": "seconds"}, "2 h"),
        ("never", {"format": "date-time"}, "never"),
        (1.50, {}, "1.5"),
        (["a", "b"], {}, "a, b"),
        ([1024, 2048], {"items": {"format": "bytes"}}, "1 KiB, 2 KiB"),
        ("a\x1b[31m\u202eb", {}, "ab"),
        ("many", {"format": "bytes"}, "many"),
        ([1], {"format": "bytes"}, "1"),
        ("half", {"format": "percent"}, "half"),
        (5, {"format": "date-time"}, "5"),
        (float("inf"), {"format": "seconds"}, "inf days"),
        ({"used": 1024, "note": ""}, {"properties": {"used": {"format": "bytes"}}}, "used=1 KiB"),
    ],
)
def test_a_cell_is_formatted_by_its_schema(value: Any, schema: dict[str, Any], words: str) -> None:
    assert text.format_cell(value, schema) == words


def test_references_are_inlined_and_null_is_dropped() -> None:
    schema = {
        "$defs": {
            "Size": {"type": "integer", "format": "bytes"},
            "Disk": {"properties": {"s": {"$ref": "#/$defs/Size"}}},
        },
        "properties": {
            "disk": {"$ref": "#/$defs/Disk", "description": "here"},
            "maybe": {"anyOf": [{"$ref": "#/$defs/Size"}, {"type": "null"}], "default": None},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        },
    }

    assert text.resolve_schema(schema) == {
        "properties": {
            "disk": {"properties": {"s": {"type": "integer", "format": "bytes"}}, "description": "here"},
            "maybe": {"type": "integer", "format": "bytes", "default": None},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        }
    }


ROWS = {"properties": {"things": {"items": {"columns": ["name", "size"], "properties": {"size": {"format": "bytes"}}}}}}


def test_a_list_has_a_line_per_row_and_a_note_about_omitted_rows() -> None:
    value = {"things": [{"name": "a", "size": 1024, "hidden": 1}, {"name": "b", "size": None}], "total": 5, "more": 3}

    lines = text.format_result(value, ROWS).splitlines()

    assert lines[:3] == ["name  size", "a  1 KiB", "b"]
    assert lines[3].startswith("… 3 more")
    assert text.format_result({"things": [], "total": 0, "more": 0}, ROWS) == "no things"
    assert text.table_rows(value, ROWS) == (["name", "size"], [["a", "1 KiB"], ["b", ""]])


@pytest.mark.parametrize("things", [None, 5, "text", {}, ["text", 5, None]])
def test_malformed_rows_of_a_host_are_skipped(things: Any) -> None:
    assert text.table_rows({"things": things}, ROWS) == (["name", "size"], [])
    assert text.table_rows({}, ROWS) == (["name", "size"], [])


def test_a_single_result_has_a_line_per_field_with_a_value() -> None:
    schema = {"properties": {"disk_size": {"format": "bytes"}, "parts": {"items": {"properties": {}}}}}
    value = {"name": "web", "disk_size": 1024, "empty": "", "parts": [{"a": 1}, {"a": 2}]}

    assert text.format_result(value, schema) == "name: web\ndisk size: 1 KiB\nparts: a=1\nparts: a=2"


TOOLS = [*load_tools(), *fleet_tools(None)]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
@pytest.mark.parametrize("filled", [True, False], ids=["filled", "empty"])
def test_every_result_has_a_text_form(tool: Tool, filled: bool) -> None:
    """With all or no fields filled, there is readable text, and a table has a cell per column."""
    result = sample(tool.result, filled)
    assert isinstance(result, Result)
    schema, value = schema_of(tool.result), result.model_dump(mode="json")

    words = result.text()

    assert words == text.clean(words)
    assert "None" not in words and "Row(" not in words and "{" not in words
    assert isinstance(text.format_result(value, schema), str)
    if field := text.rows_field(schema):
        columns, cells = text.table_rows(value, schema)
        assert all(len(row) == len(columns) for row in cells)
        assert len(cells) == len(value[field]) == (1 if filled else 0)
        assert set(columns) <= set(schema["properties"][field]["items"]["properties"])
        if filled:
            assert "sample" in words
    elif filled:
        assert words


def sample(model: type[BaseModel], filled: bool) -> BaseModel:
    """An instance with every field filled, or with as little as the model allows."""
    return model(**{name: value_of(field.annotation, filled) for name, field in model.model_fields.items()})


def value_of(kind: Any, filled: bool) -> Any:
    if get_origin(kind) in (UnionType, Union):
        options = [option for option in get_args(kind) if option is not type(None)]
        return value_of(options[0], filled) if filled else None
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    if get_origin(kind) is list:
        return [value_of(get_args(kind)[0], filled)] if filled else []
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return sample(kind, filled)
    if get_origin(kind) is Annotated:
        return value_of(get_args(kind)[0], filled)
    simple: dict[Any, tuple[Any, Any]] = {str: ("sample", ""), int: (7, 0), float: (7.5, 0.0), bool: (True, False)}
    return simple[kind][0 if filled else 1]
