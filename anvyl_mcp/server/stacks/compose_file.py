"""Parses a Compose file without reading any other file, and finds the line of an error in it.

Compose itself parses the text, as the content of an extension field: there `include`, `extends` and `env_file` mean
nothing, so nothing else is read. What is deployed later is made from this parsed content, never from the text, so what
was checked is what Compose gets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, InvalidInput
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.stacks.compose_runner import Compose, ComposeFailed

PARSE_SECONDS = 20
MAX_FILE_BYTES = 256 * 1024
MAX_VARIABLES = 1000
WRAPPER = "x-anvyl"
INDENT = "  "
UNUSUAL_BREAKS = re.compile("[\x00\x0b\x0c\x85\u2028\u2029]|\r(?!\n)")
"""Characters that YAML parsers disagree about."""
ERROR_LINE = re.compile(r"\bline (\d+)(?:, column \d+)?|\bat L(\d+)\.C\d+(?:-L(\d+)\.C\d+)?")
YAML_ERRORS = re.compile(r"construct errors: line \d+: ")
"""The beginning of a list of errors, with a line that is none of theirs."""
ERROR_NOISE = re.compile(
    r"^(?:failed to parse \S+: |validating \S+: |yaml: |(?:go-)?yaml load error in \w+ |: invalid compose project$)+"
    r"|: invalid compose project$"
)
UNKNOWN_KEY = re.compile(r"false schema|[Aa]dditional propert(?:y|ies) '?(\w[\w.-]*)'? (?:is )?not allowed")
ERROR_PATH = re.compile(r"\b((?:services|networks|volumes|configs|secrets)(?:\.[\w-]+)+)")
ERROR_SERVICE = re.compile(r"^service \"([\w.-]+)\"")
HINTS = {
    "no such file or directory": "only the Compose file and its .env are sent: name other files by their whole path on "
    "the host, or send all as one file, as docker compose config prints it",
    "needs the variable": "set it in the .env file next to the Compose file, or give another with --env-file",
}
VARIABLE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*(?:=|:\s).*", re.DOTALL)
ASSIGNMENT = re.compile(r"\s*(?:=|:\s)")
SHORTEST_SECRET = 4
PROFILES = "COMPOSE_PROFILES"


def parse_compose(engine: Engine, written: str) -> dict[str, Any]:
    """The content of a Compose file, with variables not replaced yet.

    Raises:
        InvalidInput: it is not a Compose file; the message names the line.
    """
    lines = _checked_lines(written)
    wrapped = "\n".join([f"{WRAPPER}:", *(f"{INDENT}{line}" for line in lines), "services: {}", ""])
    compose = Compose(engine, "parse", Path("/nonexistent"), files=["-"])
    try:
        printed = compose.run("config", "--no-interpolate", "--format", "json", seconds=PARSE_SECONDS, stdin=wrapped)
    except ComposeFailed as error:
        raise invalid_file(error, written, shift=1) from error
    content = json.loads(printed.stdout).get(WRAPPER)
    if not isinstance(content, dict):
        raise InvalidInput("this is not a Compose file: it has no `services`", hint="see docs.docker.com/compose")
    if not isinstance(content.get("services"), dict) or not content["services"]:
        raise InvalidInput("the Compose file has no services", hint="list at least one under `services:`")
    return content


def _checked_lines(written: str) -> list[str]:
    """The lines of one YAML document, without the marker at its start."""
    if len(written.encode()) > MAX_FILE_BYTES:
        raise InvalidInput(f"the Compose file is larger than {text.format_size(MAX_FILE_BYTES)}")
    written = written.removeprefix("\ufeff")
    if found := UNUSUAL_BREAKS.search(written):
        line = written[: found.start()].count("\n") + 1
        raise InvalidInput(f"line {line} of the Compose file has a control character or an unusual line break")
    lines = [line.removesuffix("\r") for line in written.split("\n")]
    first = next((number for number, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")), 0)
    if lines[first].rstrip() == "---":
        lines[first] = ""
    for number, content in enumerate(lines, start=1):
        if content.startswith(("---", "...", "%")):
            raise InvalidInput(
                f"line {number} of the Compose file begins another YAML document", hint="send one document"
            )
    return lines


def invalid_file(error: AnvylError, written: str, *, shift: int = 0) -> InvalidInput:
    """The error for a file that Compose rejects. `shift`: lines that were added before its text."""
    reason, line = YAML_ERRORS.sub("", error.message), 0
    if match := ERROR_LINE.search(reason):
        line = max(1, int(match[1] or match[3] or match[2]) - shift)
        reason = ERROR_LINE.sub("", reason, count=1)
        reason = ERROR_LINE.sub(lambda other: f"line {max(1, int(other[1] or other[2]) - shift)}", reason)
    reason = re.sub(r"^\(while (.*?)\)? *:", r"while \1:", ERROR_NOISE.sub("", reason)).strip(" :")
    if match := ERROR_SERVICE.search(reason):
        line = line or find_line(written, ["services", match[1]])
    if path := ERROR_PATH.search(reason):
        unknown = UNKNOWN_KEY.search(reason)
        keys = [*path[1].split("."), *([unknown[1]] if unknown and unknown[1] else [])]
        line = line or find_line(written, keys)
        if unknown:
            reason = f"`{keys[-1]}` is not a key of {'.'.join(keys[:-1])}"
    where = f"line {line} of the Compose file" if line else "the Compose file"
    hint = next((words for pattern, words in HINTS.items() if pattern in reason), "correct the file")
    return InvalidInput(f"{where} is invalid: {' '.join(reason.split())}", hint=f"nothing was changed; {hint}")


def find_line(written: str, keys: Sequence[str]) -> int:
    """The line of a key, given the keys above it; that of the last one found, or 0."""
    lines, found, indent, start = written.split("\n"), 0, -1, 0
    for key in keys:
        pattern = re.compile(rf"""(\s*)["']?{re.escape(key)}["']?\s*:""")
        for number in range(start, len(lines)):
            match = pattern.match(lines[number])
            if match and len(match[1]) > indent:
                found, indent, start = number + 1, len(match[1]), number + 1
                break
        else:
            break
    return found


def split_variables(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """The lines of a `.env` file without settings of Compose itself, and the profiles to use.

    Raises:
        InvalidInput: a line is not `NAME=value`; the message does not contain it.
    """
    kept, profiles = [], []
    if len(lines) > MAX_VARIABLES:
        raise InvalidInput(f"the .env file has more than {MAX_VARIABLES} lines")
    for number, line in enumerate(lines, start=1):
        written = line.strip()
        if not written or written.startswith("#"):
            continue
        match = VARIABLE.fullmatch(written)
        if match is None or "\x00" in written:
            raise InvalidInput(f"line {number} of the .env file is not NAME=value", hint="write it like KEY=value")
        name, _, value = written.partition("=")
        if name.strip() == PROFILES:
            profiles += [one.strip() for one in value.strip(" '\"").split(",") if one.strip()]
        elif not match[1].startswith("COMPOSE_"):
            kept.append(written)
    return kept, profiles


def mask_values(words: str, variables: Sequence[str]) -> str:
    """A text in which names stand for the values of variables, like `${KEY}`; too short ones are no secrets."""
    pairs = [ASSIGNMENT.split(one, 1) for one in variables]
    values = [(pair[1].strip(" '\""), pair[0].removeprefix("export").strip()) for pair in pairs if len(pair) == 2]
    for value, name in sorted(values, key=lambda one: -len(one[0])):
        if len(value) >= SHORTEST_SECRET:
            words = words.replace(value, f"${{{name}}}")
    return words


def without_extensions(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The parsed file without extension fields and the obsolete version, which Compose would warn about."""
    return {name: value for name, value in tree.items() if name != "version" and not name.startswith("x-")}
