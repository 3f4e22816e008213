"""The fleet as ONE agent toolset: each tool once, with a `host` argument, however many hosts there are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic_ai import ApprovalRequired, RunContext, ToolFailed, ToolReturn, UsageLimitExceeded
from pydantic_ai.messages import ModelResponse, ToolCallPart
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from anvyl_mcp.core.errors import AnvylError, ApprovalNeeded, Conflict, Denied, NotFound, NothingToDo
from anvyl_mcp.core.values.arguments import coerce_arguments
from anvyl_mcp.orchestrator import telemetry
from anvyl_mcp.orchestrator.checks.consent import RequiredConsent, RootReasons, no_root_reasons, required_consent
from anvyl_mcp.orchestrator.checks.guard import Guard, PlacedCall
from anvyl_mcp.orchestrator.checks.resolve import Inventory
from anvyl_mcp.orchestrator.language.phrases import holes
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.orchestrator.run import EndReason, Run
from anvyl_mcp.peers.changes import change_plan
from anvyl_mcp.peers.changes.argument_check import check
from anvyl_mcp.peers.connection.listing import ToolAnswer, ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import resolve_targets
from anvyl_mcp.peers.gateway import host_argument

ANY_ARGUMENTS = SchemaValidator(core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema()))
HOST = {"type": "string", "description": "host, hosts separated by commas, or all"}
MOST_CHARACTERS = 6000
"""Of one tool result that a model gets to read: about 1,500 tokens."""
MOST_LOOKS = 30
MOST_CHANGES = 500
"""Calls for one question. A plan of many changes is one order, and one yes covers it."""


class FleetToolset(AbstractToolset[Run]):
    """Calls pass the guard, then `Fleet.call`; whatever changes something waits for an approval first."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        guard: Guard | None = None,
        inventory: Inventory | None = None,
        root_reasons: RootReasons = no_root_reasons,
    ) -> None:
        """Offer every tool. Without a guard, calls are made as they are asked for.

        `inventory`: what was seen so far; `root_reasons`: what is as good as root.
        """
        self._fleet = fleet
        self._weigh = root_reasons
        self._guard = guard
        self._inventory = inventory or (guard.inventory if guard else Inventory(fleet))
        self._tools = {name: self._tool(listing) for name, listing in fleet.catalogue.items()}

    @property
    def id(self) -> str:
        """Constant: there is one fleet."""
        return "fleet"

    async def get_tools(self, ctx: RunContext[Run]) -> dict[str, ToolsetTool[Run]]:
        """The catalogue's tools: the same whatever hosts there are."""
        return dict(self._tools)

    async def get_instructions(self, ctx: RunContext[Run]) -> str:
        """The hosts, which may differ from question to question, come after everything constant."""
        names = ", ".join(
            f"{name} (this one)" if name == self._fleet.local.name else name for name in self._fleet.hosts
        )
        question = ctx.deps.question
        only = f" Only {question.host} is meant in this question." if question.host else ""
        if question.home and not only:
            only = f" {question.home} is meant where this question names no host."
        return f"Hosts: {names}.{only}"

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Run], tool: ToolsetTool[Run]
    ) -> ToolReturn:
        """Run one tool where it belongs; a change that nobody approved yet asks first."""
        listing, run = self._fleet.tool(name), ctx.deps
        if not ctx.tool_call_approved:
            _spend(listing, run)
        approved = run.proposals.get(ctx.tool_call_id or "") if ctx.tool_call_approved else None
        try:
            # What was approved is done exactly so, and decided no second time.
            exact = PlacedCall(approved.arguments, approved.hosts) if approved else None
            placed = exact or await self._place(listing, tool_args, run)
            if not exact and self._guard and self._guard.is_repeated(name, placed.arguments, placed.hosts):
                run.end(EndReason.REPEATED_CALL)
                raise ToolFailed("This very call was made before; its result stands.")
            asks = not listing.reads and approved is None
            proposal = await self._proposal(listing, placed, tool_args, ctx) if asks else approved
        except NothingToDo as done:
            run.end_with_nothing_to_do(done)
            return ToolReturn(f"{done.message}.", metadata={})
        except AnvylError as error:
            self._note_failure(listing, tool_args, error, run)
            if isinstance(error, Denied) and not listing.reads and run.untrusted:
                await self._hold(listing, tool_args, ctx)
            # A model has arguments and no flags; the rules pass on what they are told to a person.
            raise ToolFailed(str(error if run.by_rules else error.for_tool_caller())) from error
        if asks and proposal is not None:
            run.propose(proposal)
            raise ApprovalRequired()
        return await self._call(listing, placed, run, proposal)

    async def _call(self, listing: ToolListing, placed: PlacedCall, run: Run, approved: Proposal | None) -> ToolReturn:
        name, hosts = listing.name, placed.hosts
        run.begin_call(name, placed.arguments, hosts)

        def note(outcome: Outcome) -> None:
            telemetry.record_call(outcome)
            run.end_call(outcome)

        expected, problems = (approved.expected, approved.problems) if approved else ({}, {})
        outcomes = await self._fleet.call_many(
            hosts, name, placed.arguments, on_behalf=run.question.on_behalf, expected=expected, on_outcome=note
        )
        for host, error in problems.items():
            outcomes[host] = Outcome(host, name, placed.arguments, ToolAnswer(error=error), 0.0)
            note(outcomes[host])
        if not listing.reads:
            self._inventory.forget()
        if listing.untrusted:
            run.record_untrusted(source_words(listing, placed.arguments, hosts))
        return ToolReturn(
            host_argument.render(outcomes, listing, MOST_CHARACTERS), metadata=for_rules(outcomes, listing)
        )

    def _note_failure(self, listing: ToolListing, given: Mapping[str, Any], error: AnvylError, run: Run) -> None:
        """End the run of a model when the person has to say more, or when a call fails twice."""
        run.fail_call(listing.name, error)
        if not listing.reads and run.by_rules:
            run.record_impossible(listing.name, given, error)
        if self._guard is None:
            return
        if isinstance(error, Conflict | ApprovalNeeded) or (isinstance(error, NotFound) and not listing.reads):
            run.end(EndReason.NEEDS_CLARIFICATION, error)
        elif self._guard.is_repeated(f"failed {listing.name}", given, ()):
            run.end(EndReason.REPEATED_FAILURE, error)

    async def _place(self, listing: ToolListing, given: Mapping[str, Any], run: Run) -> PlacedCall:
        arguments = own_arguments(listing, given)
        selector = host_argument.selector(given.get("host"))
        if self._guard is None:
            return await self._place_as_said(listing, arguments, selector, run.question)
        if not run.by_rules:
            return await self._guard.place(listing, arguments, selector)
        try:
            return await self._place_as_said(listing, arguments, selector, run.question)
        except NotFound:
            # The rules take words as names; the guard knows images and roles too: `restart the nginx`.
            return await self._guard.place(listing, arguments, selector)

    async def _place_as_said(
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
        """A change to ask a person about: only what can be done, on what there is.

        Raises:
            AnvylError: it can be done nowhere.
        """
        run, question = ctx.deps, ctx.deps.question
        arguments, hosts = placed.arguments, placed.hosts
        consent = await self._consent(listing, placed, given, run)
        read = ", ".join(dict.fromkeys(f"{call.tool} on {call.host}" for call in run.calls))
        read = read or ("what was answered before" if question.turns else "")
        untrusted = run.untrusted or placed.source or (read if consent.unsaid else "")
        plan = await change_plan.plan_change(
            self._fleet,
            listing,
            arguments,
            hosts,
            on_behalf=question.on_behalf,
            look=self._inventory.outcomes,
            offered=self._inventory.offered,
            made=_made(ctx, self._fleet),
        )
        return Proposal(
            ctx.tool_call_id or "",
            listing.name,
            plan.arguments,
            plan.hosts,
            untrusted=untrusted,
            expected=plan.expected,
            problems=plan.problems,
            details=plan.details,
            unsaid=consent.unsaid,
            root=consent.root,
        )

    async def _hold(self, listing: ToolListing, given: Mapping[str, Any], ctx: RunContext[Run]) -> None:
        """Keep a change that the question does not ask for, and that text written by others may have put forward.

        Nobody is asked about it and no yes given before covers it; the person is told, with its source.
        """
        run, question = ctx.deps, ctx.deps.question
        arguments = own_arguments(listing, given)
        try:
            check(listing, arguments)
            hosts = await resolve_targets(self._fleet, listing, arguments, str(given.get("host") or question.host))
        except AnvylError:
            return
        if question.host and not set(hosts) <= set(self._fleet.select(question.host)):
            return
        run.end(EndReason.UNTRUSTED_CHANGE)
        if self._guard and self._guard.wish.intent == "read":
            # No change was asked for, so none waits: it is only reported.
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
        """The consent that a change needs; `given` are the arguments as they were asked for."""
        same = all(placed.arguments.get(name) == given.get(name) for name in listing.names)
        # A name that rules took from the words may have been replaced by a near one, which the words do not say.
        by_rules = (run.by_rules and same) or self._guard is None
        said = host_argument.selector(given.get("host"))
        if said and not by_rules:
            with suppress(AnvylError):
                home = run.question.host or run.question.home
                usual = await resolve_targets(self._fleet, listing, placed.arguments, home)
                said = "" if placed.hosts == usual else said
        consent = required_consent(
            listing,
            placed.arguments,
            placed.hosts,
            said=run.question.text,
            root_reasons=self._weigh,
            selector=said,
            by_rules=by_rules,
        )
        planned = self._guard is not None and self._guard.is_expanded(listing, placed.arguments)
        return replace(consent, unsaid=()) if planned else consent

    def _tool(self, listing: ToolListing) -> ToolsetTool[Run]:
        definition = ToolDefinition(
            name=listing.name,
            description=listing.description,
            parameters_json_schema=host_argument.schema(listing, HOST),
            strict=False,
            metadata={"listing": listing},
        )
        return ToolsetTool(toolset=self, tool_def=definition, max_retries=3, args_validator=ANY_ARGUMENTS)


def _made(ctx: RunContext[Run], fleet: Fleet) -> set[str]:
    """The names that changes proposed at the same time make: nobody has them yet."""
    response = next((one for one in reversed(ctx.messages) if isinstance(one, ModelResponse)), None)
    calls = [part for part in (response.parts if response else ()) if isinstance(part, ToolCallPart)]
    making = [call for call in calls if call.tool_name in fleet.catalogue and not fleet.tool(call.tool_name).names]
    names = {str(call.args_as_dict().get("name") or "") for call in making if not fleet.tool(call.tool_name).reads}
    return names - {""}


def own_arguments(listing: ToolListing, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the tool itself, as its host will read them."""
    return coerce_arguments(listing.input_schema, {name: value for name, value in given.items() if name != "host"})


def _spend(listing: ToolListing, run: Run) -> None:
    """Count a call against what one question may cost. Carrying out what was approved costs nothing.

    Raises:
        UsageLimitExceeded: it has cost too much.
    """
    kind, most = ("looks", MOST_LOOKS) if listing.reads else ("changes", MOST_CHANGES)
    if run.count_call(kind) > most:
        raise UsageLimitExceeded(f"more than {most} {kind} for one question")


def source_words(listing: ToolListing, arguments: Mapping[str, Any], hosts: list[str]) -> str:
    """What was read, for people: `logs of web on nas`."""
    named = {name: value for name, value in arguments.items() if value}
    shows = [one for one in listing.say if one.startswith("show ") and set(holes(one)) <= named.keys()]
    words = shows[-1].removeprefix("show ").format_map(named) if shows else f"what `{Call(listing, named)}` gave"
    return f"{words} on {', '.join(hosts)}"


def for_rules(outcomes: Mapping[str, Outcome], listing: ToolListing) -> dict[str, Any]:
    """What each host answered, as the rules read it from a call's metadata."""
    hosts = {
        host: {
            "ok": outcome.ok,
            "result": outcome.answer.result,
            "text": outcome.answer.text,
            "error": str(outcome.error) if outcome.error else None,
        }
        for host, outcome in outcomes.items()
    }
    return {"hosts": hosts, "listing": listing}
