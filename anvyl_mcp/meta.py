"""Keys under `_meta` that both sides of a connection know."""

TOOL = "anvyl/tool"
"""On a listed tool: `{"toolset", "scope", "safety", "say", "untrusted", "seconds"}`."""
ERROR = "anvyl/error"
"""On a failed result: `{"code", "message", "hint"}`."""
OPERATION = "anvyl/op"
"""On a request that changes something: the operation's id."""
