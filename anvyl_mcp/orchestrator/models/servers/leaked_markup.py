"""What a model writes for its server and not for a person: thoughts, channels and end tokens that came through."""

from __future__ import annotations

import re

from anvyl_mcp.orchestrator.models.servers.written_calls import END_TOKENS, MARKER

TAGS = r"think(?:ing)?|thoughts?|reasoning|seed:think"
THOUGHT = re.compile(
    rf"<(?P<close>/?)(?:{TAGS})>|\[(?P<bracket>/?)THINK\]|◁(?P<kimi>/?)think▷"
    r"|<\|(?:START_THINKING|begin_of_thought)\|>|(?P<ended><\|(?:END_THINKING|end_of_thought)\|>)"
)
CHANNEL = re.compile(
    r"(?:<\|start\|>)?(?:assistant)?\s*<\|channel\|>\s*(?P<name>\w+)(?P<to>\s+to=[\w.:-]+)?"
    r"\s*(?:<\|constrain\|>)?\s*(?:json|code)?\s*<\|message\|>"
    r"(?P<body>.*?)(?:<\|(?:end|return)\|>|(?=<\|(?:start|channel|call)\|>)|\Z)",
    re.DOTALL,
)
FINAL = re.compile(r"(?s:.*)(?:assistant)?(?:final\s*<\|message\|>|(?<=.)assistantfinal)")
BARE_ANALYSIS = re.compile(r"\s*(?:<\|start\|>assistant)?(?:<\|channel\|>\s*)?analysis")
END = re.compile(END_TOKENS)
TOKEN = re.compile(
    r"<\|(?:im_start|start_header_id)\|>\s*(?:assistant)?\s*(?:<\|end_header_id\|>)?|<\|(?:assistant|start|message|channel|constrain"
    r"|START_RESPONSE|END_RESPONSE|begin_of_solution|end_of_solution|begin_of_box|end_of_box)\|>(?:assistant)?|<start_of_turn>(?:model)?"
    r"|\A<s>|</?answer>|\[/?INST\]"
)


def closed_thinking(content: str) -> str:
    """`content` with every thought between `<think>` and `</think>`, whatever the model left out."""
    content = THOUGHT.sub(_plain_tag, content)
    first_open, first_close = content.find("<think>"), content.find("</think>")
    if first_close >= 0 and not 0 <= first_open < first_close:
        content = f"<think>{content}"
    last_open = content.rfind("<think>")
    if last_open <= content.rfind("</think>"):
        return content
    call = MARKER.search(content, last_open)
    end = call.start() if call else len(content)
    return f"{content[:end]}</think>{content[end:]}"


def _plain_tag(tag: re.Match[str]) -> str:
    closes = tag["close"] or tag["bracket"] or tag["kimi"] or tag["ended"]
    return "</think>" if closes else "<think>"


def without_channels(content: str) -> str:
    """gpt-oss's channels as others write them: analysis is a thought, `final` is the answer, a call stays a call."""
    if BARE_ANALYSIS.match(content) and (final := FINAL.match(content)):
        return f"<think>{final[0]}</think>{content[final.end() :]}"
    return CHANNEL.sub(_channel, content)


def _channel(match: re.Match[str]) -> str:
    if match["to"]:
        return f"\n{match[0]}"
    return f"<think>{match['body']}</think>" if match["name"] == "analysis" else match["body"]


def without_tokens(content: str) -> str:
    """An answer up to its end token, without tokens that only the server should have seen."""
    content = TOKEN.sub("", content)
    end = next((match for match in END.finditer(content) if content[: match.start()].strip()), None)
    return END.sub("", content[: end.start()] if end else content)
