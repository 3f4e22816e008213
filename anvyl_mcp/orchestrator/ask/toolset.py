"""The fleet as one agent toolset: each tool once, with an argument `host`, for any number of hosts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic_ai import ApprovalRequired, RunContext, ToolFailed, ToolReturn, UsageLimitExceeded
from pydantic_ai.messages import INVALID_JSON_KEY, ModelResponse, ToolCallPart
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from anvyl_mcp.core.errors import (
    AnvylError,
    ApprovalNeeded,
    Conflict,
    Denied,
    ModelUnavailable,
    NotFound,
    NothingToDo,
)
from anvyl_mcp.core.values.arguments import coerce_arguments
from anvyl_mcp.orchestrator import telemetry
from anvyl_mcp.orchestrator.checks.call_checks import CallChecks
from anvyl_mcp.orchestrator.checks.consent import RequiredConsent, RootReasons, no_root_reasons, required_consent
from anvyl_mcp.orchestrator.checks.guard import Guard, PlacedCall
from anvyl_mcp.orchestrator.checks.resolve import Inventory
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.rules.results.answers import describe_source, result_metadata
from anvyl_mcp.orchestrator.run import EndReason, Run
from anvyl_mcp.peers.changes import change_plan
from anvyl_mcp.peers.changes.argument_check import check
from anvyl_mcp.peers.changes.stack_names import whole_stack
from anvyl_mcp.peers.connection.listing import ToolAnswer, ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import resolve_targets
from anvyl_mcp.peers.gateway import fenced_answers, host_argument

ANY_ARGUMENTS = SchemaValidator(core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema()))
HOST = {"type": "string", "description": "host, hosts separated by commas, or all"}
MOST_CHARACTERS = 6000
"""Of a tool result for a model: about 1,500 tokens."""
MOST_READS = 30
MOST_CHANGES = 500
"""Calls for one question. Higher for changes, because one approval covers a plan of many changes."""


class FleetToolset(AbstractToolset[Run]):
    """Executes tool calls: checks them with the guard, proposes changes for approval, and calls the fleet."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        guard: Guard | None = None,
        inventory: Inventory | None = None,
        root_reasons: RootReasons = no_root_reasons,
    ) -> None:
        """Offer every tool. Without a guard, calls are made unchecked.

        `inventory`: cached objects; `root_reasons`: why a call gives root on its host.
        """
        self._fleet = fleet
        self._root_reasons = root_reasons
        self._guard = guard
        self._inventory = inventory or (guard.inventory if guard else Inventory(fleet))
        self._tools = {name: self._tool(listing) for name, listing in fleet.catalogue.items()}

    @property
    def id(self) -> str:
        """Constant, because there is one fleet."""
        return "fleet"

    async def get_tools(self, ctx: RunContext[Run]) -> dict[str, ToolsetTool[Run]]:
        """The tools of the catalogue, independent of the hosts."""
        return dict(self._tools)

    async def get_instructions(self, ctx: RunContext[Run]) -> str:
        """The hosts of this question, after all constant instructions so that a model can cache those."""
        names = ", ".join(self._described(name) for name in self._fleet.hosts)
        question = ctx.deps.question
        only = f" This question is only about {question.host}." if question.host else ""
        if question.home and not only:
            only = f" Where this question names no host, it is about {question.home}."
        return f"Hosts: {names}.{only}"

    def _described(self, name: str) -> str:
        """A host with what else a person may call it: `nas (this one, @home)`."""
        words = ["this one"] if name == self._fleet.local.name else []
        words += [f"@{tag}" for tag in self._fleet.peers[name].tags]
        return f"{name} ({', '.join(words)})" if words else name

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Run], tool: ToolsetTool[Run]
    ) -> ToolReturn:
        """Run one tool on its hosts, or propose a change that has not been approved yet."""
        listing, run = self._fleet.tool(name), ctx.deps
        if not ctx.tool_call_approved:
            _count_call(listing, run)
        approved = run.proposals.get(ctx.tool_call_id or "") if ctx.tool_call_approved else None
        try:
            if INVALID_JSON_KEY in tool_args:
                raise ModelUnavailable(
                    f"the model sent arguments for `{name}` that are not JSON",
                    hint="try a larger model, or let this one plan: export ANVYL_DRIVE=plan",
                    call_hint="make the call again, with one JSON object as arguments",
                )
            # An approved call is executed unchanged.
            exact = PlacedCall(approved.arguments, approved.hosts) if approved else None
            if approved:
                listing = self._fleet.tool(approved.tool)
            else:
                wanted = host_argument.selector(tool_args.get("host"))
                listing, tool_args = await whole_stack(
                    self._fleet, listing, tool_args, wanted, self._inventory.outcomes
                )
            name = listing.name
            placed = exact or await self._place(listing, tool_args, run)
            if not exact and self._guard and self._guard.is_repeated(name, placed.arguments, placed.hosts):
                if self._guard.ends_run or self._guard.is_repeated(f"repeated {name}", placed.arguments, placed.hosts):
                    run.end(EndReason.REPEATED_CALL)
                raise ToolFailed("This very call was made before; its result stands.")
            needs_approval = not listing.reads and approved is None
            proposal = await self._proposal(listing, placed, tool_args, ctx) if needs_approval else approved
        except NothingToDo as done:
            run.end_with_nothing_to_do(done)
            return ToolReturn(f"{done.message}.", metadata={})
        except AnvylError as error:
            self._note_failure(listing, tool_args, error, run)
            if isinstance(error, Denied) and not listing.reads and run.untrusted:
                await self._propose_untrusted(listing, tool_args, ctx)
            # Hints for a model name arguments instead of flags; the rules show errors to the user.
            raise ToolFailed(str(error if run.by_rules else error.for_tool_caller())) from error
        if needs_approval and proposal is not None:
            run.propose(proposal)
            raise ApprovalRequired()
        return await self._call(listing, placed, run, proposal)

    async def _call(self, listing: ToolListing, placed: PlacedCall, run: Run, approved: Proposal | None) -> ToolReturn:
        name, hosts = listing.name, placed.hosts
        run.begin_call(name, placed.arguments, hosts)

        def record(outcome: Outcome) -> None:
            telemetry.record_call(outcome)
            run.end_call(outcome)

        expected, problems = (approved.expected, approved.problems) if approved else ({}, {})
        outcomes = await self._fleet.call_many(
            hosts, name, placed.arguments, on_behalf=run.question.on_behalf, expected=expected, on_outcome=record
        )
        for host, error in problems.items():
            outcomes[host] = Outcome(host, name, placed.arguments, ToolAnswer(error=error), 0.0)
            record(outcomes[host])
        if not listing.reads:
            self._inventory.forget()
        if listing.untrusted:
            run.record_untrusted(describe_source(listing, placed.arguments, hosts))
        return ToolReturn(
            fenced_answers.render(outcomes, listing, MOST_CHARACTERS), metadata=result_metadata(outcomes, listing)
        )

    def _note_failure(self, listing: ToolListing, given: Mapping[str, Any], error: AnvylError, run: Run) -> None:
        """Record a failed call, and end a model's run if the question is ambiguous or the call failed before."""
        run.fail_call(listing.name, error)
        if not listing.reads and run.by_rules:
            run.record_impossible(listing.name, given, error)
        if self._guard is None:
            return
        unclear = isinstance(error, Conflict | ApprovalNeeded) or (isinstance(error, NotFound) and not listing.reads)
        if unclear and self._guard.ends_run:
            run.end(EndReason.NEEDS_CLARIFICATION, error)
        elif self._guard.is_repeated(f"failed {listing.name}", given, ()):
            run.end(EndReason.REPEATED_FAILURE, error)

    async def _place(self, listing: ToolListing, given: Mapping[str, Any], run: Run) -> PlacedCall:
        arguments = _tool_arguments(listing, given)
        selector = host_argument.selector(given.get("host"))
        if self._guard is None:
            return await self._place_literally(listing, arguments, selector, run.question)
        if not run.by_rules:
            return await self._guard.place(listing, arguments, selector)
        try:
            return await self._place_literally(listing, arguments, selector, run.question)
        except NotFound:
            # The rules use words as names; the guard also resolves images and roles: `restart the nginx`.
            return await self._guard.place(listing, arguments, selector)

    async def _place_literally(
        self, listing: ToolListing, arguments: dict[str, Any], selector: str, question: Question
    ) -> PlacedCall:
        check(listing, arguments)
        hosts = await resolve_targets(self._fleet, listing, arguments, selector or question.host or question.home)
        if question.host and (outside := set(hosts) - set(self._fleet.select(question.host))):
            raise Denied(f"this question is about {question.host} only, not {', '.join(sorted(outside))}")
        return PlacedCall(arguments, hosts)

    async def _proposal(
        self, listing: ToolListing, placed: PlacedCall, given: Mapping[str, Any], ctx: RunContext[Run]
    ) -> Proposal:
        """The proposal for a change, on the hosts where it is possible.

        Raises:
            AnvylError: it is possible on none.
        """
        run, question = ctx.deps, ctx.deps.question
        arguments, hosts = placed.arguments, placed.hosts
        consent = await self._consent(listing, placed, given, run)
        sources = ", ".join(dict.fromkeys(f"{call.tool} on {call.host}" for call in run.calls))
        sources = sources or ("earlier answers" if question.turns else "")
        untrusted = run.untrusted or placed.source or (sources if consent.unsaid else "")
        plan = await change_plan.plan_change(
            self._fleet,
            listing,
            arguments,
            hosts,
            on_behalf=question.on_behalf,
            lister=self._inventory.outcomes,
            offered=self._inventory.offered,
            created=_names_in_creation(ctx, self._fleet),
        )
        return Proposal(
            ctx.tool_call_id or "",
            listing.name,
            plan.arguments,
            plan.hosts,
            untrusted=untrusted,
            expected=plan.expected,
            problems=plan.problems,
            details=(*(run.remarks if run.by_rules and not run.proposals else ()), *plan.details),
            unsaid=consent.unsaid,
            doubts=tuple(run.doubts) if run.by_rules else self._guard.doubts(listing) if self._guard else (),
            root=consent.root,
        )

    async def _propose_untrusted(self, listing: ToolListing, given: Mapping[str, Any], ctx: RunContext[Run]) -> None:
        """Report a denied change that untrusted text may have caused, with its source, and end the run.

        It is proposed only if the question does not just read. Approval in advance never covers it.
        """
        run, question = ctx.deps, ctx.deps.question
        arguments = _tool_arguments(listing, given)
        try:
            check(listing, arguments)
            hosts = await resolve_targets(self._fleet, listing, arguments, str(given.get("host") or question.host))
        except AnvylError:
            return
        if question.host and not set(hosts) <= set(self._fleet.select(question.host)):
            return
        run.end(EndReason.UNTRUSTED_CHANGE)
        if self._guard and self._guard.wish.intent == "read":
            # The question asks for no change, so this one is reported but cannot be approved.
            run.set_untrusted_aside(listing.name)
            return
        try:
            plan = await change_plan.plan_change(self._fleet, listing, arguments, hosts, on_behalf=question.on_behalf)
        except AnvylError:
            return
        proposal = Proposal(ctx.tool_call_id or "", listing.name, arguments, hosts, untrusted=run.untrusted)
        proposal.replan(plan)
        run.propose(proposal)

    async def _consent(
        self, listing: ToolListing, placed: PlacedCall, given: Mapping[str, Any], run: Run
    ) -> RequiredConsent:
        """The consent that a change needs. `given`: the arguments before the guard changed them."""
        same = all(placed.arguments.get(name) == given.get(name) for name in listing.names)
        # The guard may have replaced a name from the question with a similar one that is not in it.
        by_rules = (run.by_rules and same) or self._guard is None
        selector = host_argument.selector(given.get("host"))
        if selector and not by_rules:
            with suppress(AnvylError):
                home = run.question.host or run.question.home
                default = await resolve_targets(self._fleet, listing, placed.arguments, home)
                selector = "" if placed.hosts == default else selector
            if self._guard and (
                set(placed.hosts) <= self._guard.hosts_said()
                or await self._guard.are_all_said(listing, placed.arguments, placed.hosts)
            ):
                selector = ""
        consent = required_consent(
            listing,
            placed.arguments,
            placed.hosts,
            said=self._guard.said if self._guard else run.question.text,
            root_reasons=self._root_reasons,
            selector=selector,
            by_rules=by_rules,
            nothing_read=isinstance(self._guard, CallChecks) and not run.question.turns and not self._has_read(run),
        )
        expanded = self._guard is not None and self._guard.is_expanded(listing, placed.arguments)
        return replace(consent, unsaid=()) if expanded else consent

    def _has_read(self, run: Run) -> bool:
        """Whether the model has seen something that a host wrote, apart from what became of its changes."""
        return bool(run.failures) or any(not call.ok or self._fleet.tool(call.tool).reads for call in run.calls)

    def _tool(self, listing: ToolListing) -> ToolsetTool[Run]:
        definition = ToolDefinition(
            name=listing.name,
            description=listing.description,
            parameters_json_schema=host_argument.schema(listing, HOST),
            strict=False,
            metadata={"listing": listing},
        )
        return ToolsetTool(toolset=self, tool_def=definition, max_retries=3, args_validator=ANY_ARGUMENTS)


def _names_in_creation(ctx: RunContext[Run], fleet: Fleet) -> set[str]:
    """Names of objects that other changes of the same response create."""
    response = next((one for one in reversed(ctx.messages) if isinstance(one, ModelResponse)), None)
    calls = [part for part in (response.parts if response else ()) if isinstance(part, ToolCallPart)]
    creating = [call for call in calls if call.tool_name in fleet.catalogue and not fleet.tool(call.tool_name).names]
    names = {str(call.args_as_dict().get("name") or "") for call in creating if not fleet.tool(call.tool_name).reads}
    return names - {""}


def _tool_arguments(listing: ToolListing, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without `host`, coerced to the tool's schema."""
    return coerce_arguments(listing.input_schema, {name: value for name, value in given.items() if name != "host"})


def _count_call(listing: ToolListing, run: Run) -> None:
    """Count a call against the limit for one question.

    Raises:
        UsageLimitExceeded: the limit is exceeded.
    """
    kind, most = ("reads", MOST_READS) if listing.reads else ("changes", MOST_CHANGES)
    if run.count_call(kind) > most:
        raise UsageLimitExceeded(f"more than {most} {kind} for one question")
