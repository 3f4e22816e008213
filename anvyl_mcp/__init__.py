"""Run a handful of Docker hosts in plain words, privately."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anvyl_mcp.agent import HostAgent, create_agent_manager

__version__ = "0.1.0"
__all__ = ["HostAgent", "__version__", "create_agent_manager"]


def __getattr__(name: str) -> Any:
    """Import the Python API on first use, because commands do not need it."""
    if name in ("HostAgent", "create_agent_manager"):
        from anvyl_mcp import agent

        return getattr(agent, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
