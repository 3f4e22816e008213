"""Networks that are there already: which one a name or the beginning of an id leads to is not in its text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anvyl_mcp.server.auth.callers import ACTING
from anvyl_mcp.server.engine import lookup
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.policy import guardrails


def check_network(engine: Engine, asked: str) -> str:
    """The name of the network that a container may be made in; what an engine does not look up is left as it is.

    Raises:
        NotFound: there is no such network.
        Denied: it is the host's, under another name.
    """
    if asked in guardrails.USUAL_NETWORKS or guardrails.is_network_mode(asked):
        return asked
    found = lookup.network(engine, asked)
    check_found(found, asked)
    return str(found["Name"])


def check_found(network: Mapping[str, Any], asked: str) -> None:
    """Return when who acts may join this network, whatever it was called in the call.

    Raises:
        Denied: it is the host's, and a right is missing.
    """
    name, driver = str(network["Name"]), str(network.get("Driver") or "")
    if name != asked and (why := guardrails.powers({"network": name})):
        ACTING.get().require("exec", f"the network `{asked}`, which is `{name}` and {why[0]},")
    if driver == "host":
        ACTING.get().require("exec", f"the network `{asked}`, which is the host's,")
