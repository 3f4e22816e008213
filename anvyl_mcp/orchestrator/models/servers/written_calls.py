"""Parse tool calls that a model wrote as text, because its server does not know the model's format.

The table `DIALECTS` lists which models use a format, its opening mark, its parsers and its closing mark. A call is only
accepted if it names an offered tool, has its own lines and ends the message, so that a quoted call is not executed.
Parsed calls go through the same checks as any other call.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from anvyl_mcp.core.values.arguments import parse_literal


class WrittenCall(NamedTuple):
    """A tool call that a model wrote as text."""

    name: str
    arguments: Any


ParsedCalls = tuple[list[WrittenCall], int]
"""Calls at the beginning of a text, and the number of characters they take."""
Parser = Callable[[str], ParsedCalls | None]

NAME = r"[A-Za-z_][\w.-]*(?::\d+)?"
FENCE = r"(?:```(?:json|tool_code|tool_call|python|xml)?\s*)?"
NAME_KEYS = ("name", "tool_name", "function", "tool")
ARGUMENT_KEYS = ("arguments", "parameters", "args", "input", "arguments_json")


def tool_name(written: str, tools: Collection[str]) -> str:
    """Resolve a written name to a tool: `functions.x`, `x<|channel|>commentary` and `functions.x:0` are `x`."""
    if written in tools:
        return written
    bare = re.sub(r":\d+$", "", re.split(r"<\||\s|\[", written.strip())[0]).rpartition(".")[2]
    spelled = bare.replace("-", "_").lower()
    return next((name for name in (bare, spelled) if name in tools), written)


def json_calls(content: str) -> ParsedCalls | None:
    """Parse `{"name": …, "arguments": …}`, a list of such objects, or a list under `tool_calls`."""
    found = _json_value(content)
    if found is None:
        return None
    value, length = found
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    calls = [_call_of(entry) for entry in (value if isinstance(value, list) else [value])]
    return ([call for call in calls if call], length) if calls and all(calls) else None


def _json_value(content: str) -> tuple[Any, int] | None:
    try:
        return json.JSONDecoder().raw_decode(content)
    except (ValueError, RecursionError):
        return None


def _call_of(entry: Any) -> WrittenCall | None:
    if not isinstance(entry, dict):
        return None
    if isinstance(entry.get("function"), dict):
        entry = entry["function"]
    name = next((entry[key] for key in NAME_KEYS if isinstance(entry.get(key), str)), None)
    arguments = next((entry[key] for key in ARGUMENT_KEYS if entry.get(key) is not None), None)
    return None if name is None or arguments is None else WrittenCall(name, arguments)


def named_json_parser(separator: str) -> Parser:
    """Parser for a name, a separator and JSON arguments: `stop_container[ARGS]{"name": "web"}`."""
    pattern = re.compile(rf"\s*(?P<name>{NAME})\s*(?:{separator})\s*{FENCE}(?=\{{)", re.DOTALL)

    def parse(content: str) -> ParsedCalls | None:
        match = pattern.match(content)
        found = _json_value(content[match.end() :]) if match else None
        if not match or not found or not isinstance(found[0], dict):
            return None
        return [WrittenCall(match["name"], found[0])], match.end() + found[1]

    return parse


def python_calls(content: str) -> ParsedCalls | None:
    """Parse `stop_container(name="web")`, also in a list, in `print()`, or several separated by `;` or newlines."""
    end = re.search(r"```|<\|?[/\w]*tool_call|</function_calls>|<\|[\w]+\|>|\Z", content)
    source = content[: end.start() if end else len(content)].strip()
    if not re.match(rf"\[?\s*{NAME}\s*\(", source):
        return None
    try:
        body = ast.parse(source).body
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    nodes = [node.value for node in body if isinstance(node, ast.Expr | ast.Assign)]
    nodes = [one for node in nodes for one in (node.elts if isinstance(node, ast.List) else [node])]
    calls = [_python_call(node) for node in nodes]
    if not calls or len(nodes) < len(body) or not all(calls):
        return None
    return [call for call in calls if call], content.index(source) + len(source)


def _python_call(node: ast.expr) -> WrittenCall | None:
    if not isinstance(node, ast.Call):
        return None
    if isinstance(node.func, ast.Name) and node.func.id == "print" and len(node.args) == 1:
        return _python_call(node.args[0])
    name = ast.unparse(node.func).removesuffix(".call")
    try:
        arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
        given = [ast.literal_eval(argument) for argument in node.args]
    except (ValueError, RecursionError):
        return None
    if given:
        return WrittenCall(name, given[0]) if len(given) == 1 and isinstance(given[0], dict) and not arguments else None
    return WrittenCall(name, arguments)


def tag_parser(head: str, argument: str, tail: str) -> Parser:
    """Parser for a name with arguments in tags, or JSON between the tags; the closing tags are optional."""
    pattern = re.compile(rf"{head}(?P<body>.*?)(?:{tail}|\Z)", re.DOTALL)
    arguments = re.compile(argument, re.DOTALL)

    def parse(content: str) -> ParsedCalls | None:
        match = pattern.match(content)
        if not match:
            return None
        found = arguments.finditer(match["body"])
        values: Any = {one["key"].strip(): one["value"].strip() for one in found}
        if not values and match["body"].strip():
            values = parse_literal(match["body"].strip())
        return ([WrittenCall(match["name"], values)], match.end()) if isinstance(values, dict) else None

    return parse


def braced_call(content: str) -> ParsedCalls | None:
    """Parse `call:stop_container{name:<escape>web<escape>,timeout:5}`."""
    match = re.match(rf"call:\s*(?P<name>{NAME})\s*\{{(?P<body>.*?)\}}(?=\s*<|\s*\Z)", content, re.DOTALL)
    if not match:
        return None
    quoted = re.compile(
        r'(\w+)\s*:\s*(?:(?P<mark><escape>|<\|"\|>|")(?P<text>.*?)(?P=mark)|(?P<bare>[^,]*))(?:,|\Z)', re.DOTALL
    )
    values = {one[1]: one["text"] if one["mark"] else one["bare"].strip() for one in quoted.finditer(match["body"])}
    return [WrittenCall(match["name"], values)], match.end()


PARAMETER = (
    r"<parameter(?:=|\s+name=)\"?(?P<key>[\w.-]+)\"?(?:\s[^>]*)?>(?P<value>.*?)(?:</parameter>|(?=<parameter)|\Z)"
)
function_tags = tag_parser(rf"<function=\"?(?P<name>{NAME})\"?>", PARAMETER, r"</function>")
invoke_tags = tag_parser(rf"<invoke\s+name=\"(?P<name>{NAME})\"\s*>", PARAMETER, r"</invoke>")
key_value_tags = tag_parser(
    rf"(?P<name>{NAME})\s*(?=<arg_key>|</tool_call>)",
    r"<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)(?:</arg_value>|\Z)",
    r"(?=</tool_call>)",
)
name_tags = tag_parser(rf"<(?P<name>{NAME})>", r"<(?P<key>\w+)>(?P<value>.*?)</(?P=key)>", r"</(?P=name)>")
IN_TOOL_CALL = (json_calls, function_tags, invoke_tags, key_value_tags, python_calls)
SEPARATOR = "<｜tool▁sep｜>"
END_REQUEST = r"\[END_TOOL_REQUEST\]"
harmony = named_json_parser(r"(?:<\|channel\|>\s*\w+)?\s*(?:<\|constrain\|>)?\s*(?:json|code)?\s*(?:<\|message\|>)?")


class Dialect(NamedTuple):
    """Format of written calls. `opening` marks a call; with an empty one only the parser can tell."""

    written_by: str
    opening: str
    parsers: tuple[Parser, ...]
    closing: str = ""


HARMONY_ENDS = r"<\|(?:call|end)\|>"
DIALECTS = (
    Dialect("Qwen, Hermes, GLM, Granite", r"<tool_call>", IN_TOOL_CALL, r"</tool_call>"),
    Dialect("MiniMax, Hunyuan", r"<tool_calls>", (json_calls,), r"</tool_calls>"),
    Dialect("MiniMax M2", r"<minimax:tool_call>", (invoke_tags,), r"</minimax:tool_call>"),
    Dialect("Claude's markup, OLMo", r"<(?:antml:)?function_calls>", (invoke_tags, python_calls)),
    Dialect("Claude's markup, bare", r"(?=<invoke\s+name=)", (invoke_tags,)),
    Dialect("Seed", r"<seed:tool_call>", (function_tags,), r"</seed:tool_call>"),
    Dialect("gpt-oss", r"(?:<\|start\|>)?(?:assistant)?\s*<\|channel\|>\s*\w+\s+to=", (harmony,), HARMONY_ENDS),
    Dialect("gpt-oss, recipient first", r"<\|start\|>assistant\s+to=", (harmony,), HARMONY_ENDS),
    Dialect("gpt-oss without its tokens", r"(?:assistant)?commentary\s+to=", (harmony,)),
    Dialect("Gemma 2 and 3", r"```tool_(?:code|call)\s", (python_calls, json_calls), r"```"),
    Dialect("FunctionGemma", r"<start_function_call>", (braced_call,), r"<end_function_call>"),
    Dialect("Gemma 4", r"<\|tool_call>", (braced_call,), r"<tool_call\|>"),
    Dialect("Granite, Phi-4", r"<\|tool_call\|>", (json_calls,), r"<\|/tool_call\|>"),
    Dialect("Phi-4, functools", r"functools(?=\s*\[)", (json_calls,)),
    Dialect("LM Studio", r"\[TOOL_REQUEST\]", (json_calls,), r"\[END_TOOL_REQUEST\]"),
    Dialect("LM Studio, named", rf"\[(?={NAME}\]\s*\{{.*{END_REQUEST})", (named_json_parser(r"\]"),), END_REQUEST),
    Dialect("OpenAI's older form", r"<function_call>", (json_calls,), r"</function_call>"),
    Dialect("Nemotron", r"<TOOLCALL>", (json_calls,), r"</TOOLCALL>"),
    Dialect("LFM2", r"<\|tool_call_start\|>", (python_calls, json_calls), r"<\|tool_call_end\|>"),
    Dialect("Mistral", r"\[TOOL_CALLS\]", (json_calls, named_json_parser(r"(?:\[CALL_ID\]\w+)?\s*(?:\[ARGS\])?"))),
    Dialect("Llama 3, Qwen Coder", r"(?=<function=)", (function_tags,)),
    Dialect("Llama 3.1", r"<\|python_tag\|>", (json_calls, python_calls), r"<\|eom_id\|>"),
    Dialect(
        "Kimi",
        r"<\|tool_call_begin\|>",
        (named_json_parser(r"<\|tool_call_argument_begin\|>"),),
        r"<\|tool_call_end\|>",
    ),
    Dialect("DeepSeek", rf"<｜tool▁call▁begin｜>(?:function{SEPARATOR})?", (named_json_parser(rf"(?:{SEPARATOR})?"),)),
    Dialect("Command R", r"<\|START_ACTION\|>", (json_calls,), r"<\|END_ACTION\|>"),
    Dialect("InternLM", r"<\|action_start\|>\s*<\|plugin\|>", (json_calls,), r"<\|action_end\|>"),
    Dialect("JSON", r"", (json_calls,)),
    Dialect("Python", r"", (python_calls,)),
    Dialect("tags named like the tool", r"", (name_tags,)),
)
WRAPPERS = r"<\|tool_calls_section_begin\|>|<｜tool▁calls▁begin｜>"
MARKER = re.compile("|".join([WRAPPERS, *(dialect.opening for dialect in DIALECTS if dialect.opening)]), re.DOTALL)
MARKED_LINE = re.compile(rf"^[ \t]*(?:{MARKER.pattern})", re.MULTILINE | re.DOTALL)
END_TOKENS = (
    r"<\|(?:im_end|endoftext|eot_id|eom_id|end_of_text|end|return|call|end_of_turn|eos|eod)\|>|</s>|<end_of_turn>|<eos>"
    r"|<turn\|>|<｜end▁of▁sentence｜>"
)
"""End of a model's turn; anything after it is an invented turn."""
BETWEEN = re.compile(
    rf"(?:\s|[,;]|{WRAPPERS}|<\|tool_calls_section_end\|>|<｜tool▁calls?▁end｜>|{END_TOKENS}"
    r"|</(?:\w+:)?(?:tool_calls?|function_calls?)>|```(?:json|python|xml)?(?=\s|\Z|<))+"
)
"""Text that is allowed before, between and after calls."""
_OPENINGS = [re.compile(dialect.opening, re.DOTALL) for dialect in DIALECTS]
_CLOSINGS = [re.compile(rf"\s*(?:```\s*)?(?:{dialect.closing})" if dialect.closing else "") for dialect in DIALECTS]
_BEFORE_BODY = re.compile(r"\s*(?:```(?:json|python)?\s)?\s*")


def written_calls(content: str, tools: Mapping[str, Any]) -> tuple[str, list[WrittenCall]]:
    """Split a message into the prose before tool calls and the calls; without calls all of it is prose.

    Prose after the calls is accepted, and dropped as invented, only if the message begins with a marked call.
    """
    for start in _starts(content, tools):
        calls, rest = _read_calls(content[start:])
        calls = [call._replace(name=tool_name(call.name, tools)) for call in calls]
        if not calls or any(call.name not in tools for call in calls):
            continue
        if rest and not (not content[:start].strip() and MARKED_LINE.match(content[start:])):
            continue
        return content[:start], calls
    return content, []


def unreadable_call(content: str, tools: Mapping[str, Any]) -> bool:
    """Whether a text contains something like a tool call that could not be parsed into a call of a known tool."""
    for start in _starts(content, tools):
        piece = content[start:]
        calls, _ = _read_calls(piece)
        is_known = bool(calls) and all(tool_name(call.name, tools) in tools for call in calls)
        if MARKED_LINE.match(piece):
            # A valid call that is followed by prose is a quotation.
            if not is_known or not content[:start].strip():
                return True
        elif not calls and _names_a_tool(piece, tools):
            return True
    return False


def _starts(content: str, tools: Mapping[str, Any]) -> list[int]:
    """Offsets at which a call may begin: marks at the start of a line, and the start of the text."""
    starts = {match.start() for match in MARKED_LINE.finditer(content)}
    begins = re.match(r"\s*(?:```\w*\s*)?[\[{]", content) is not None
    named = re.match(rf"\s*(?:```\w*\s*)?(?:print\()?<?({NAME})\s*[(>]", content)
    if begins or (named and tool_name(named[1], tools) in tools):
        starts.add(0)
    return sorted(starts)


def _read_calls(content: str) -> tuple[list[WrittenCall], str]:
    """Calls at the beginning of `content`, and the rest of the text."""
    calls: list[WrittenCall] = []
    while True:
        content = content[match.end() :] if (match := BETWEEN.match(content)) else content
        found = _read_one(content)
        if found is None:
            return calls, content
        calls += found[0]
        content = content[found[1] :]


def _read_one(content: str) -> ParsedCalls | None:
    for dialect, opening, closing in zip(DIALECTS, _OPENINGS, _CLOSINGS, strict=True):
        match = opening.match(content)
        if not match:
            continue
        before = _BEFORE_BODY.match(content, match.end())
        begin = before.end() if before else match.end()
        for parse in dialect.parsers:
            if found := parse(content[begin:]):
                calls, length = found
                end = closing.match(content, begin + length)
                return calls, end.end() if end else begin + length
    return None


def _names_a_tool(piece: str, tools: Mapping[str, Any]) -> bool:
    """Whether truncated JSON, or text that is not valid Python, calls a known tool."""
    named = re.search(rf'"(?:{"|".join(NAME_KEYS)})"\s*:\s*"({NAME})"', piece)
    keyed = re.search(rf'"(?:{"|".join(ARGUMENT_KEYS)})"\s*:', piece)
    broken_off = piece.count("(") != piece.count(")")
    called = re.match(rf"\s*(?:```\w*\s*)?\[?(?:print\()?({NAME})\(", piece) if broken_off else None
    return any(match and tool_name(match[1], tools) in tools for match in (named if keyed else None, called))
