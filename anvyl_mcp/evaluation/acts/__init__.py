"""Simulated tools: one function per tool, on the state of one `Host`.

Each takes the tool's own arguments and returns its result's fields, which the real result model then checks.
"""

from anvyl_mcp.evaluation.acts import containers, hosts, links, past
from anvyl_mcp.evaluation.acts.shared import ACTS, perform

__all__ = ["ACTS", "containers", "hosts", "links", "past", "perform"]
