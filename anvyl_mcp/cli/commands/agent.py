"""`anvyl agent`: commands of the older design, and questions to the agents of other hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from anvyl_mcp.cli.parser.command_groups import Commands
from anvyl_mcp.cli.parser.options import JsonOption, YesOption

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from anvyl_mcp.app.node import Node
    from anvyl_mcp.core.settings import Settings
    from anvyl_mcp.orchestrator.api.schemas import Answer, Approval, ErrorBody, Result

EXAMPLES = """\
anvyl agent start --port 4200
anvyl agent query-remote nas "get host resources"
anvyl agent broadcast "list all containers"
"""

app = Commands("Serve this host's agent, and ask the agents of other hosts.", EXAMPLES)

QuestionArgument = Annotated[list[str], typer.Argument(metavar="QUESTION", help='For example "get host resources".')]
HostArgument = Annotated[str, typer.Argument(metavar="HOST", help="Name of a host; `anvyl agent hosts` lists them.")]


@app.command()
def start(
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port to listen on.  [default: 4200 and 4201]")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Network address to listen on, over TLS.")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of this host.")] = None,
) -> None:
    """Serve this host on one port, until Ctrl-C."""
    from anvyl_mcp.cli.programs.host import serve

    serve(host=host, port=port, agent_port=port, name=name)


@app.command()
def info(as_json: JsonOption = False) -> None:
    """Show the name, status and tools of this host's agent."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        async with open_node(settings, lean=True) as node:
            fields = await node.agent_info()
        if as_json:
            output.print_json({**fields, "error": None})
            return 0
        for field, value in fields.items():
            output.print_text(f"{field}\t{', '.join(value) if isinstance(value, list) else value}".expandtabs(22))
        return 0

    runner.run_command(work, failed=(lambda error: {"error": error.as_dict()}) if as_json else None)


@app.command()
def process(
    query: QuestionArgument,
    host_id: Annotated[str, typer.Option("--host-id", metavar="HOST", help="Ask the agent of this host.")] = "",
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a question or request a change, like anvyl ask."""
    words = " ".join(query)
    if host_id:
        _remote(host_id, words, yes=yes, as_json=as_json)
    from anvyl_mcp.cli.conversation.ask_session import ask_once

    ask_once(words, host="", yes=yes, dry_run=False, as_json=as_json, model="", offline=False)


@app.command("query-remote")
def query_remote(
    host_id: HostArgument, query: QuestionArgument, yes: YesOption = False, as_json: JsonOption = False
) -> None:
    """Ask the agent of another host."""
    _remote(host_id, " ".join(query), yes=yes, as_json=as_json)


@app.command()
def approve(
    id_: Annotated[str, typer.Argument(metavar="ID", help="ID of a pending change.")],
    deny: Annotated[bool, typer.Option("--deny", help="Reject it; nothing is changed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Approve a pending change."""

    async def work(node: Node) -> Answer:
        service = await node.agent_service()
        return await service.decide(id_, node.local_caller, approve=not deny)

    _answer(work, ask=False, as_json=as_json)


@app.command()
def broadcast(message: QuestionArgument, yes: YesOption = False, as_json: JsonOption = False) -> None:
    """Ask the agents of all hosts, this one included."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        async with open_node(settings) as node:
            service = await node.agent_service()
            results = (await service.forwarding.broadcast(" ".join(message), node.local_caller, approve=yes)).results
        if as_json:
            output.print_json({"results": [result.model_dump(mode="json") for result in results], "error": None})
        for result in () if as_json else results:
            _show_result(result)
        return _combined_exit_code(results)

    runner.run_command(work, failed=output.error_document("results", []) if as_json else None)


@app.command()
def hosts(as_json: JsonOption = False) -> None:
    """List the hosts, and whether they answer."""
    from anvyl_mcp.cli.commands.hosts import list_hosts

    list_hosts(as_json=as_json)


def _remote(host_id: str, query: str, *, yes: bool, as_json: bool) -> None:
    async def work(node: Node) -> Answer:
        service = await node.agent_service()
        return await service.forwarding.ask(host_id, query, node.local_caller, approve=yes)

    _answer(work, ask=True, as_json=as_json)


def _answer(work: Callable[[Node], Awaitable[Answer]], *, ask: bool, as_json: bool) -> None:
    """Print an answer. A pending change is asked about at the terminal, else it stays pending with exit code 5."""
    from anvyl_mcp.cli.runtime import output, runner

    async def run(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        async with open_node(settings) as node:
            answer = await work(node)
            approval: Approval | None = getattr(answer, "approval", None)
            if approval and ask and (approved := runner.ask_yes_no(*_prompt_lines(approval))) is not None:
                service = await node.agent_service()
                answer, approval = await service.decide(approval.id, node.local_caller, approve=approved), None
                if not approved:
                    _print(answer, as_json=as_json)
                    return 5
        _print(answer, as_json=as_json)
        if approval:
            output.print_message(f"hint:  anvyl agent approve {approval.id}")
            return 5
        return _exit_code(answer.error)

    runner.run_command(run, failed=(lambda error: {"error": error.as_dict()}) if as_json else None)


def _print(answer: Answer, *, as_json: bool) -> None:
    from anvyl_mcp.cli.runtime import output

    for note in answer.notes:
        output.print_message(f"note:  {note}")
    if as_json:
        output.print_json({"error": None, **answer.model_dump(mode="json")})
    else:
        output.print_text(answer.response)


def _prompt_lines(approval: Approval) -> list[str]:
    """Lines of the approval prompt: the affected objects, then the question."""
    from anvyl_mcp.peers.changes import wording

    orders = wording.describe_all([(call.tool, call.arguments, call.hosts) for call in approval.calls])
    return [*(line for call in approval.calls for line in call.details), wording.question("; ".join(orders))]


def _exit_code(error: ErrorBody | None) -> int:
    from anvyl_mcp.core.errors import from_code

    return from_code(error.code, error.message).exit_code if error else 0


def _show_result(result: Result) -> None:
    from anvyl_mcp.cli.runtime import output

    if result.error is not None:
        output.print_message(f"error: {result.result}")
        return
    output.print_text(
        result.result if result.result.startswith(result.host_id) else f"{result.host_id}: {result.result}"
    )
    if result.approval is not None:
        output.print_message(f"hint:  anvyl agent approve {result.approval.id}")


def _combined_exit_code(results: Sequence[Result]) -> int:
    """Exit code: 0 all answered, 5 a change is pending, 3 some failed, the common code if all failed alike, else 1."""
    codes = {_exit_code(result.error) for result in results}
    if any(result.approval for result in results):
        return 5
    return codes.pop() if len(codes) == 1 else 3 if 0 in codes or 3 in codes else 1
