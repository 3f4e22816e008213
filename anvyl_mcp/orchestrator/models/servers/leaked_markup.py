"""Strip markup that should not have left the model server: thinking tags, channels and special tokens."""

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
    """Normalize thinking tags to `<think>…</think>` and add missing ones."""
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
    """Convert gpt-oss channels: `analysis` to a thought, `final` to plain text; calls stay as they are."""
    if BARE_ANALYSIS.match(content) and (final := FINAL.match(content)):
        return f"<think>{final[0]}</think>{content[final.end() :]}"
    return CHANNEL.sub(_channel, content)


def _channel(match: re.Match[str]) -> str:
    if match["to"]:
        return f"\n{match[0]}"
    return f"<think>{match['body']}</think>" if match["name"] == "analysis" else match["body"]


def without_tokens(content: str) -> str:
    """Remove special tokens, and everything after an end token."""
    content = TOKEN.sub("", content)
    end = next((match for match in END.finditer(content) if content[: match.start()].strip()), None)
    return END.sub("", content[: end.start()] if end else content)
