"""Edit one entry below a top-level key of a YAML file. Only the lines of that entry change.

The entry is in a block mapping (`anvyl:` below `extensions:`) or in a block sequence (`- name: anvyl` below
`mcpServers:`). What is written in another style, like `extensions: {a: 1}`, is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.app.config_edits.edit_errors import UnsupportedConfig

PLAIN = re.compile(r"[A-Za-z/][\w./-]*")
RESERVED = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
TOP_KEY = re.compile(r"""("[^"]*"|'[^']*'|[A-Za-z_][^:{\[]*)\s*:(\s|$)""")
EMPTY_VALUES = ("", "{}", "[]", "null", "~")
STEP = "  "


def set_entry(text: str, key: str, name: str, value: dict[str, Any], *, as_list: bool) -> str:
    """Set the entry `name` below `key`; `as_list`: as an item with this `name` of a sequence.

    Raises:
        UnsupportedConfig: the file has a layout that cannot be edited safely.
    """
    lines = _lines(text)
    block = _find_block(lines, key)
    if block is None:
        gap = [""] if lines and lines[-1].strip() else []
        return "\n".join([*lines, *gap, f"{key}:", *_entry_lines(name, value, STEP, as_list=as_list)]) + "\n"
    if block.is_sequence not in (None, as_list):
        raise UnsupportedConfig(f"its `{key}` is not a {'list' if as_list else 'mapping'}")
    indent = STEP if block.indent is None else block.indent
    written = _entry_lines(name, value, indent, as_list=as_list)
    span = _find_entry(lines, block, name)
    if span is not None and lines[span[0] : span[1]] == written:
        return text
    start, end = span or (block.end, block.end)
    if block.indent is None:
        lines[block.line] = f"{key}:{block.comment}"
    return "\n".join([*lines[:start], *written, *lines[end:]]) + "\n"


def remove_entry(text: str, key: str, name: str) -> str:
    """Remove the entry `name` below `key`, if it is there; `key` too, if nothing else is below it.

    Raises:
        UnsupportedConfig: the file has a layout that cannot be edited safely.
    """
    lines = _lines(text)
    block = _find_block(lines, key)
    span = _find_entry(lines, block, name) if block else None
    if block is None or span is None:
        return text
    left = [*lines[block.line + 1 : span[0]], *lines[span[1] : block.end]]
    if any(_is_content(line) for line in left):
        return "\n".join([*lines[: span[0]], *lines[span[1] :]]) + "\n"
    emptied = [f"{key}: {'[]' if block.is_sequence else '{}'}{block.comment}"] if block.comment else []
    rest = "\n".join([*lines[: block.line], *emptied, *left, *lines[block.end :]]).rstrip("\n")
    return f"{rest}\n" if rest else ""


@dataclass(frozen=True, slots=True)
class _Block:
    """The lines below a top-level key. `indent` of its entries, or None if it has none."""

    line: int
    end: int
    indent: str | None
    is_sequence: bool | None
    comment: str


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    content = [line for line in lines if _is_content(line) and not line.startswith("%")]
    if any(line.startswith(("---", "...")) for line in content[1:]):
        raise UnsupportedConfig("it has several documents")
    if content and content[0].startswith("---"):
        content = content[1:]
    if content and not TOP_KEY.match(content[0]):
        raise UnsupportedConfig("it is not a YAML mapping in block style")
    return lines


def _find_block(lines: Sequence[str], key: str) -> _Block | None:
    start = re.compile(rf"""(?:{key}|"{key}"|'{key}')\s*:(?P<value>\s.*|)""")
    found = [(number, match) for number, line in enumerate(lines) if (match := start.fullmatch(line))]
    if not found:
        return None
    if len(found) > 1:
        raise UnsupportedConfig(f"it has `{key}` twice")
    number, match = found[0]
    value, _, comment = match["value"].partition(" #")
    end, first = number + 1, None
    for at in range(number + 1, len(lines)):
        line = lines[at]
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith((" ", "\t", "- ")) and line != "-":
            break
        end = at + 1  # an indented comment may be text of a block scalar
        if first is None and _is_content(line):
            first = line
    if value.strip() not in EMPTY_VALUES or (first is not None and value.strip()):
        raise UnsupportedConfig(f"its `{key}` is not in block style")
    remark = f" #{comment}" if comment else ""
    if first is None:
        return _Block(number, end, None, None, remark)
    indent = first[: len(first) - len(first.lstrip())]
    if "\t" in indent or first.lstrip()[0] in "{[":
        raise UnsupportedConfig(f"its `{key}` is not in block style")
    return _Block(number, end, indent, first.lstrip().startswith("-"), remark)


def _find_entry(lines: Sequence[str], block: _Block, name: str) -> tuple[int, int] | None:
    """Return the lines of the entry, without comments after it."""
    if block.indent is None:
        return None
    depth = len(block.indent)
    starts = [
        at
        for at in range(block.line + 1, block.end)
        if _is_content(lines[at])
        and len(lines[at]) - len(lines[at].lstrip()) == depth
        and (not block.is_sequence or lines[at].lstrip().startswith("-"))
    ]
    for number, start in enumerate(starts):
        stop = starts[number + 1] if number + 1 < len(starts) else block.end
        entry = list(lines[start:stop])
        while entry and not _is_content(entry[-1]):
            entry.pop()
        if _is_named(entry, name, depth, in_sequence=bool(block.is_sequence)):
            return start, start + len(entry)
    return None


def _is_named(entry: Sequence[str], name: str, depth: int, *, in_sequence: bool) -> bool:
    quoted = rf"""(?:{name}|"{name}"|'{name}')"""
    if not in_sequence:
        return re.match(rf"\s*{quoted}\s*:(\s|$)", entry[0]) is not None
    first = re.match(r"\s*-(\s+)", entry[0])
    inner = depth + 1 + (len(first[1]) if first else 1)
    fields = [" " * inner + entry[0][inner:], *entry[1:]]
    return any(re.fullmatch(rf" {{{inner}}}name\s*:\s+{quoted}\s*(#.*)?", line) for line in fields)


def _is_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _entry_lines(name: str, value: dict[str, Any], indent: str, *, as_list: bool) -> list[str]:
    if not as_list:
        return [f"{indent}{name}:", *_mapping_lines(value, indent + STEP)]
    first, *rest = _mapping_lines(value, indent + STEP)
    return [f"{indent}- {first.lstrip()}", *rest]


def _mapping_lines(value: dict[str, Any], indent: str) -> list[str]:
    lines: list[str] = []
    for key, one in value.items():
        if isinstance(one, dict) and one:
            lines += [f"{indent}{_scalar(key)}:", *_mapping_lines(one, indent + STEP)]
        elif isinstance(one, list) and one:
            lines += [f"{indent}{_scalar(key)}:", *(f"{indent}{STEP}- {_scalar(item)}" for item in one)]
        else:
            lines.append(f"{indent}{_scalar(key)}: {_scalar(one)}")
    return lines


def _scalar(value: Any) -> str:
    """Write a scalar or an empty collection; JSON strings are YAML strings."""
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in RESERVED:
        return value
    return json.dumps(value, ensure_ascii=False)
