"""What hosts and their clients share: `_meta` keys, HTTP headers, and which tools belong together."""

from collections.abc import Mapping

TOOL = "anvyl/tool"
"""On a listed tool: `{"toolset", "scope", "safety", "say", "about", "untrusted", "seconds", "once", "rare"}`."""
ERROR = "anvyl/error"
"""On a failed result: `{"code", "message", "hint"}`, and `retry_after` in seconds if the host was busy."""
OPERATION = "anvyl/op"
"""On a change and on its response: the operation id, which makes the change idempotent."""
EXPECT = "anvyl/expect"
"""On a change: the expected `{"id", "state"}` of the object. The host refuses the change if they differ."""
OBJECTS = "anvyl/objects"
"""On a change: the expected ids of images, networks and volumes, by `KIND NAME`."""
WHOLE = "anvyl/whole"
"""On a request: true if the client shortens long results itself, so the host sends more than a model could read."""
SCOPES = "anvyl/scopes"
"""On a call on behalf of another caller: the scopes of that caller. They can only reduce the scopes of the client."""
FOR = "anvyl/for"
"""On a call on behalf of another caller: the name of that caller, for the audit log."""
ALONE = "anvyl/alone"
"""On a call on behalf of a token without relay: the tools neither show nor call other hosts."""
HEAD = "anvyl/head"
"""On a response to a caller with the read scope: `{"seq", "hash"}` of the last audit record."""
KEY = "anvyl/key"
"""On a response to the holder of a token: the pin of the current key, or of the next key during a rotation."""

SCOPES_HEADER = "X-Anvyl-Scopes"
"""`SCOPES` as an HTTP header, separated by commas."""
FOR_HEADER = "X-Anvyl-For"
"""`FOR` as an HTTP header, percent-encoded."""
PATH_HEADER = "X-Anvyl-Path"
"""Ids of the hosts that forwarded a question, separated by commas; see `peers.hops`."""
ALONE_HEADER = "X-Anvyl-Alone"
"""On a question that was broadcast: each host answers only for itself, whatever hosts the question names."""
REQUEST_ID_HEADER = "X-Request-Id"
"""Request id in responses and logs, the same on every host that the request reaches."""

CHANGES_AT_ONCE = 4
"""Concurrent changes per host. Clients send no more at a time, because the host would make them wait or refuse."""

STACK_TOOLS: Mapping[str, str] = {
    "get_container_info": "get_stack_info",
    "get_container_logs": "get_stack_logs",
    "get_container_stats": "get_stack_stats",
    "start_container": "start_stack",
    "stop_container": "stop_stack",
    "restart_container": "restart_stack",
    "remove_container": "remove_stack",
    "update_container": "update_stack",
}
"""The tool that does to a stack what another tool does to one container."""
