"""Edit JSON with comments and trailing commas: only the text of one member changes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.app.config_edits.edit_errors import UnsupportedConfig

DECODER = json.JSONDecoder()
INDENT = re.compile(r"^([ \t]+)\S", re.MULTILINE)


def parse(text: str) -> dict[str, Any]:
    """Parse a document; an empty one is an empty object.

    Raises:
        UnsupportedConfig: it is not JSON, or not an object.
    """
    try:
        document = json.loads(_Plain(text).text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise UnsupportedConfig("it is not valid JSON") from error
    if not isinstance(document, dict):
        raise UnsupportedConfig("it is not a JSON object")
    return document


def set_member(text: str, path: Sequence[str], value: Any) -> str:
    """Set the member at `path`, creating the objects above it.

    Raises:
        UnsupportedConfig: the document cannot be edited without damage.
    """
    document = parse(text)
    holder = document
    for key in path[:-1]:
        holder = holder.setdefault(key, {})
        if not isinstance(holder, dict):
            raise UnsupportedConfig(f"its `{key}` is not an object")
    if path[-1] in holder and holder[path[-1]] == value:
        return text
    holder[path[-1]] = value
    return _checked(_set(text if text.strip() else "{}\n", path, value), document)


def remove_member(text: str, path: Sequence[str]) -> str:
    """Remove the member at `path`, if it is there.

    Raises:
        UnsupportedConfig: the document cannot be edited without damage.
    """
    document = parse(text)
    holder: Any = document
    for key in path[:-1]:
        holder = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(holder, dict) or path[-1] not in holder:
        return text
    del holder[path[-1]]
    plain = _Plain(text)
    *above, name = path
    members = plain.members(plain.find(above))
    number = next(index for index, one in enumerate(members) if one.name == name)
    return _checked(_cut(text, plain, members, number), document)


@dataclass(frozen=True, slots=True)
class _Member:
    """Where a member of an object stands in the text."""

    name: str
    start: int
    value: int
    end: int


class _Plain:
    """The document with comments and trailing commas replaced by spaces, so that positions stay the same."""

    def __init__(self, text: str) -> None:
        characters = list(text)
        self.comments: list[tuple[int, int]] = []
        self.trailing_commas: set[int] = set()
        position, comma = 0, -1
        while position < len(text):
            one = text[position]
            if one == '"':
                position, comma = _string_end(text, position), -1
                continue
            if text[position : position + 2] in ("//", "/*"):
                end = _comment_end(text, position)
                self.comments.append((position, end))
                characters[position:end] = ["\n" if text[at] == "\n" else " " for at in range(position, end)]
                position = end
                continue
            if one in "}]" and comma >= 0:
                characters[comma] = " "
                self.trailing_commas.add(comma)
            if not one.isspace():
                comma = position if one == "," else -1
            position += 1
        self.text = "".join(characters)

    def skip(self, position: int) -> int:
        """Return the position of the next character that is not a space."""
        while position < len(self.text) and self.text[position].isspace():
            position += 1
        return position

    def find(self, path: Sequence[str]) -> int:
        """Return the position of the object at `path`.

        Raises:
            KeyError: it is not there.
        """
        position = self.skip(0)
        for key in path:
            members = {one.name: one for one in self.members(position)}
            position = members[key].value
        return position

    def members(self, position: int) -> list[_Member]:
        """List the members of the object that starts at `position`."""
        found: list[_Member] = []
        position = self.skip(position + 1)
        while self.text[position] != "}":
            start = position
            name, position = DECODER.raw_decode(self.text, start)
            value = self.skip(self.skip(position) + 1)
            _, end = DECODER.raw_decode(self.text, value)
            found.append(_Member(name, start, value, end))
            position = self.skip(end)
            if self.text[position] == ",":
                position = self.skip(position + 1)
        return found

    def close(self, position: int) -> int:
        """Return the position of the brace that closes the object at `position`."""
        return int(DECODER.raw_decode(self.text, position)[1]) - 1

    def after_comments(self, position: int) -> int:
        """Return `position`, or the end of the comment that it is in."""
        return next((end for start, end in self.comments if start < position < end), position)


def _set(text: str, path: Sequence[str], value: Any) -> str:
    plain = _Plain(text)
    depth = 0
    while depth < len(path) - 1:
        try:
            plain.find(path[: depth + 1])
        except KeyError:
            break
        depth += 1
    for key in reversed(path[depth + 1 :]):
        value = {key: value}
    holder, name = plain.find(path[:depth]), path[depth]
    unit = match[1] if (match := INDENT.search(text)) else "  "
    members = plain.members(holder)
    own = _line_indent(text, members[0].start) if members else None
    indent = own if own is not None else (_line_indent(text, holder) or "") + unit
    written = json.dumps(value, indent=unit, ensure_ascii=False).replace("\n", f"\n{indent}")
    known = next((one for one in members if one.name == name), None)
    if known is not None:
        return text[: known.value] + written + text[known.end :]
    member = f"{json.dumps(name, ensure_ascii=False)}: {written}"
    close = plain.close(holder)
    if not members:
        inner = text[holder + 1 : close].rstrip()
        outer = _line_indent(text, holder) or ""
        return f"{text[: holder + 1]}{inner}\n{indent}{member}\n{outer}{text[close:]}"
    last = members[-1].end
    comma = next((at for at in sorted(plain.trailing_commas) if last <= at < close), -1)
    line_end = text.find("\n", last)
    if line_end < 0 or line_end > close:
        rest = text[last:close] if comma < 0 else text[last:comma] + text[comma + 1 : close]
        return f"{text[:last]}, {member}{rest}{text[close:]}"
    line_end = plain.after_comments(line_end)
    head = text[:last] + ("," if comma < 0 else "") + text[last:line_end]
    if comma >= line_end:
        head, line_end = text[: comma + 1], comma + 1
    return f"{head}\n{indent}{member}{text[line_end:]}"


def _cut(text: str, plain: _Plain, members: Sequence[_Member], number: int) -> str:
    """Return the text without a member, its comma, and its line if nothing else is on it."""
    one = members[number]
    start, end = one.start, one.end
    comma = plain.skip(end)
    trailing = next((at for at in sorted(plain.trailing_commas) if at >= end), -1)
    if plain.text[comma] == ",":
        end = comma + 1
    elif trailing >= 0 and not plain.text[end:trailing].strip():
        end = trailing + 1
    elif number:
        before = members[number - 1].end
        comma = before + plain.text[before:start].index(",")
        text = f"{text[:comma]} {text[comma + 1 :]}"
        if text[comma + 1 : comma + 2] == "\n":
            text, start, end = text[:comma] + text[comma + 1 :], start - 1, end - 1
    line = text.rfind("\n", 0, start) + 1
    if not text[line:start].strip():
        rest = text.find("\n", end)
        if rest >= 0 and not text[end:rest].strip():
            return text[:line] + text[rest + 1 :]
    return text[:start].rstrip(" \t") + text[end:]


def _checked(after: str, wanted: dict[str, Any]) -> str:
    """Return `after` if it means what is wanted: an editing mistake must not reach the file."""
    if parse(after) != wanted:
        raise UnsupportedConfig("its layout is unusual")
    return after


def _line_indent(text: str, position: int) -> str | None:
    """Return the indentation of the line, or None if something stands before `position` on it."""
    line = text[text.rfind("\n", 0, position) + 1 : position]
    if not line.strip():
        return line
    return line[: len(line) - len(line.lstrip())] if text[position] in "{[" else None


def _string_end(text: str, position: int) -> int:
    position += 1
    while position < len(text) and text[position] not in '"\n':
        position += 2 if text[position] == "\\" else 1
    return min(position + 1, len(text))


def _comment_end(text: str, position: int) -> int:
    line = text[position : position + 2] == "//"
    end = text.find("\n" if line else "*/", position + 2)
    return len(text) if end < 0 else end if line else end + 2
