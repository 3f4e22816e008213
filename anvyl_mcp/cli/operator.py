"""`anvyl`: the operator's commands, as a table. A command's module imports what is heavy in the bodies only."""

from __future__ import annotations

from anvyl_mcp.cli import process
from anvyl_mcp.cli.table import program

COMMANDS = {
    "In plain words": {
        "ask": "asking:ask",
        "chat": "chatting:chat",
        "models": "models:app",
        "eval": "evaluate:evaluate",
    },
    "Containers": {
        "ps": "containers:ps",
        "info": "containers:info",
        "logs": "containers:logs",
        "stats": "containers:stats",
        "start": "containers:start",
        "stop": "containers:stop",
        "restart": "containers:restart",
        "rm": "containers:rm",
        "undo": "undo:undo",
        "run": "executing:run_app",
        "exec": "executing:exec_app",
    },
    "Images and machines": {
        "images": "images:images",
        "pull": "images:pull",
        "resources": "machines:resources",
        "df": "machines:df",
        "events": "machines:events",
        "watch": "watch:watch",
    },
    "Fleet and tools": {
        "hosts": "hosts:app",
        "doctor": "doctor:doctor",
        "tools": "tooling:tools",
        "call": "tooling:call",
        "completion": "shells:completion",
        "agent": "agent:app",
    },
}
"""Heading in `anvyl --help` → command → `module:function` in this package, or `module:app` for a group."""

ALIASES = {
    "ls": "containers:ps",
    "top": "containers:stats",
    "inspect": "containers:info",
}
"""What people type who know Docker; listed nowhere."""
EXAMPLES = """\
anvyl ask "is everything ok?"
anvyl logs -f web --host nas
anvyl restart web
"""

app = program("anvyl", "Run Docker hosts in plain words.", COMMANDS, ALIASES, EXAMPLES)


def main() -> None:
    """The entry point."""
    process.run(app)
