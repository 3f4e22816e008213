"""Evaluate a call against the policy of this host, without running it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anvyl_mcp.app.catalogue import load_catalogue, served_tools
from anvyl_mcp.core.errors import InvalidInput, did_you_mean
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.peers.changes.argument_check import parse_words


def try_policy(
    settings: Settings, name: str, words: list[str], *, caller: str, scope: str, labels: Mapping[str, str]
) -> dict[str, Any]:
    """Return whether the policy allows a call, and which rule decides; see `server.policy.explain`.

    Raises:
        InvalidInput: the tool or an argument is unknown.
    """
    from anvyl_mcp.server.calls.policy_facts import facts_from
    from anvyl_mcp.server.engine.engine import Engine
    from anvyl_mcp.server.http.host_state import HostState
    from anvyl_mcp.server.policy import explain
    from anvyl_mcp.server.policy.policy import Policy

    known = load_catalogue(settings.cache_dir)
    if name not in known:
        raise InvalidInput(f"there is no tool `{name}`", hint=did_you_mean(name, known))
    given = parse_words(known[name], words)
    tool = next(one for one in served_tools() if one.name == name)
    notes: list[str] = []
    engine = Engine()
    try:
        policy = Policy(settings.policy_file, explain.with_labels(facts_from(engine), labels, notes))
        who = explain.caller_named(caller, scope, HostState(settings.state_dir).tokens)
        return {**explain.explain_call(policy, tool, tool.parse(given), who), "notes": notes}
    finally:
        engine.close()
