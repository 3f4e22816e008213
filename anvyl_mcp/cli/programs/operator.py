"""`anvyl`: the commands of the operator, as a table. Command modules import heavy packages in function bodies only."""

from __future__ import annotations

from anvyl_mcp.cli.parser.lazy_commands import create_program
from anvyl_mcp.cli.terminal import process_exit

COMMANDS = {
    "In plain words": {
        "ask": "commands.questions.ask:ask",
        "chat": "commands.questions.chat:chat",
        "models": "commands.questions.models:app",
        "alias": "commands.questions.aliases:app",
        "eval": "commands.questions.evaluate:evaluate",
    },
    "Containers": {
        "ps": "commands.containers.containers:ps",
        "info": "commands.containers.containers:info",
        "logs": "commands.containers.containers:logs",
        "stats": "commands.containers.containers:stats",
        "start": "commands.containers.containers:start",
        "stop": "commands.containers.containers:stop",
        "restart": "commands.containers.containers:restart",
        "rm": "commands.containers.containers:rm",
        "undo": "commands.undo:undo",
        "run": "commands.containers.execute:run_app",
        "exec": "commands.containers.execute:exec_app",
    },
    "Stacks and updates": {
        "stack": "commands.stacks.stack:app",
        "updates": "commands.stacks.updates:updates",
        "update": "commands.stacks.updates:update",
        "swarm": "commands.stacks.swarm:app",
    },
    "Images and machines": {
        "images": "commands.containers.images:images",
        "pull": "commands.containers.images:pull",
        "resources": "commands.containers.machines:resources",
        "df": "commands.containers.machines:df",
        "events": "commands.containers.machines:events",
        "history": "commands.history:history",
        "watch": "commands.watch:watch",
        "notify": "commands.notify:app",
        "web": "commands.web:web",
    },
    "Fleet and tools": {
        "hosts": "commands.hosts:app",
        "doctor": "commands.doctor:doctor",
        "tools": "commands.tools:tools",
        "call": "commands.tools:call",
        "completion": "completion.shells:completion",
        "agent": "commands.agent:app",
    },
}
"""Heading in `anvyl --help` → command → `module:name`, relative to `anvyl_mcp.cli`: a function or a `Typer`."""

ALIASES = {
    "ls": "commands.containers.containers:ps",
    "top": "commands.containers.containers:stats",
    "inspect": "commands.containers.containers:info",
}
"""Names that users of Docker expect; not listed in the help."""
EXAMPLES = """\
anvyl ask "is everything ok?"
anvyl logs -f web --host nas
anvyl restart web
"""

app = create_program("anvyl", "Run Docker hosts in plain words.", COMMANDS, ALIASES, EXAMPLES)


def main() -> None:
    """Run `anvyl`."""
    process_exit.run_and_exit(app)
