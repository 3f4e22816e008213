"""The path of every call of a question: checked, proposed if it changes something, and made on its hosts.

It does without the agent framework: a model reaches it through `FleetToolset`, and a plan of the rules is played on it
directly, because the import of the framework takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core.errors import AnvylError, Denied, NotFound, NothingToDo
from anvyl_mcp.core.values.arguments import coerce_arguments
from anvyl_mcp.orchestrator.checks.call_checks import CallChecks, PlacedCall
from anvyl_mcp.orchestrator.checks.consent import RequiredConsent, RootReasons, no_root_reasons, required_consent
from anvyl_mcp.orchestrator.checks.resolve import Inventory
from anvyl_mcp.orchestrator.question import Decide, Proposal, Question
from anvyl_mcp.orchestrator.rules.results.answers import describe_source
from anvyl_mcp.orchestrator.run import EndReason, Run
from anvyl_mcp.peers.changes import change_plan
from anvyl_mcp.peers.changes.argument_check import check
from anvyl_mcp.peers.changes.stack_names import whole_stack
from anvyl_mcp.peers.connection.listing import ToolAnswer, ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import resolve_targets
from anvyl_mcp.peers.gateway import host_argument

MOST_READS = 30
MOST_CHANGES = 500
"""Calls for one question. Higher for changes, because one approval covers a plan of many changes."""

PACE = frozenset({"timeout", "watch"})


class OverBudget(Exception):
    """The question has made as many calls as one question may."""


class RepeatedCall(Exception):
    """A model made the very same call before."""


@dataclass(frozen=True)
class CheckedCall:
    """A call with existing names and hosts. `proposal`: of a change, which needs or has approval."""

    listing: ToolListing
    placed: PlacedCall
    proposal: Proposal | None = None

    @property
    def waits(self) -> bool:
        """Whether it may not be made yet."""
        return self.proposal is not None and self.proposal.decision != "approved"


class FleetCalls:
    """Checks, proposes and makes the calls of one question."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        checks: CallChecks | None = None,
        inventory: Inventory | None = None,
        root_reasons: RootReasons = no_root_reasons,
        record: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        """`checks`: those for a model; without them, names are taken as given.

        `inventory`: cached objects; `root_reasons`: why a call gives root on its host; `record` is called with every
        outcome.
        """
        self._fleet = fleet
        self._root_reasons = root_reasons
        self._checks = checks
        self._inventory = inventory or (checks.inventory if checks else Inventory(fleet))
        self._record = record

    async def check(
        self, name: str, given: Mapping[str, Any], run: Run, id_: str, *, created: Collection[str] = ()
    ) -> CheckedCall:
        """Check a call, and propose it if it changes something.

        `given`: its arguments, with `host`; `created`: names of objects that other calls with it create.

        Raises:
            NothingToDo: everything is as wanted; the run records it.
            OverBudget, RepeatedCall: it is not made.
            AnvylError: it cannot be made; the run records why.
        """
        listing = self._fleet.tool(name)
        _count_call(listing, run)
        try:
            wanted = host_argument.selector(given.get("host"))
            listing, given = await whole_stack(self._fleet, listing, dict(given), wanted, self._inventory.outcomes)
            placed = await self._place(listing, given, run)
            self._check_repetition(listing, placed, run)
            proposal = None
            if not listing.reads:
                proposal = await self._proposal(listing, placed, given, run, id_, created)
        except NothingToDo as done:
            run.end_with_nothing_to_do(done)
            raise
        except AnvylError as error:
            caused = isinstance(error, Denied) and not listing.reads and bool(run.untrusted)
            proposal = await self._untrusted_proposal(listing, given, id_, run, created) if caused else None
            if proposal is None:
                self._note_failure(listing, given, error, run)
                raise
            placed = PlacedCall(proposal.arguments, proposal.hosts)
        if proposal is not None:
            run.propose(proposal)
        return CheckedCall(listing, placed, proposal)

    def refused(self, name: str, given: Mapping[str, Any], error: AnvylError, run: Run) -> AnvylError:
        """Record why a call cannot even be checked; the same error."""
        listing = self._fleet.tool(name)
        _count_call(listing, run)
        self._note_failure(listing, given, error, run)
        return error

    def approved(self, proposal: Proposal) -> CheckedCall:
        """The call of an approved proposal, unchanged."""
        return CheckedCall(self._fleet.tool(proposal.tool), PlacedCall(proposal.arguments, proposal.hosts), proposal)

    async def make(self, call: CheckedCall, run: Run) -> dict[str, Outcome]:
        """Make a call on its hosts; the outcomes by host, with those where a change is not possible."""
        listing, placed = call.listing, call.placed
        name, hosts = listing.name, placed.hosts
        run.begin_call(name, placed.arguments, hosts)

        def record(outcome: Outcome) -> None:
            self._record(outcome)
            run.end_call(outcome)

        expected, problems = (call.proposal.expected, call.proposal.problems) if call.proposal else ({}, {})
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
        return outcomes

    def created_by(self, calls: Iterable[tuple[str, Mapping[str, Any]]]) -> set[str]:
        """Names of the objects that some of these calls, by tool and arguments, create."""
        known = [(self._fleet.tool(tool), given) for tool, given in calls if tool in self._fleet.catalogue]
        names = {str(given.get("name") or "") for tool, given in known if not tool.names and not tool.reads}
        return names - {""}

    def _check_repetition(self, listing: ToolListing, placed: PlacedCall, run: Run) -> None:
        """Check that a model does not make a call again without need.

        Raises:
            RepeatedCall: it does.
        """
        if self._checks is None or run.by_rules:
            return  # a plan repeats what the words repeat
        name, arguments, hosts = listing.name, placed.arguments, placed.hosts
        made = self._checks.is_repeated(name, arguments, hosts)
        if listing.reads:
            # After a change, the same call shows something else.
            repeated = made and all(self._fleet.tool(call.tool).reads for call in run.calls)
        else:
            repeated = self._repeats_last_change(listing, placed, run) and not self._checks.asks_twice(listing)
        if not repeated:
            return
        if self._checks.is_repeated(f"repeated {name}", arguments, hosts):
            run.end(EndReason.REPEATED_CALL)
        if listing.reads:
            raise RepeatedCall("This very call was made before; its result stands.")
        raise RepeatedCall("This change was proposed before for the same question; its result stands.")

    def _repeats_last_change(self, listing: ToolListing, placed: PlacedCall, run: Run) -> bool:
        """Whether the last change of these objects was the same, perhaps with another time limit."""
        name, arguments, hosts = listing.name, placed.arguments, placed.hosts
        named = {str(arguments.get(argument) or "") for argument in listing.names} - {""}
        for last in reversed(list(run.proposals.values())):
            tool = self._fleet.tool(last.tool)
            touched = {str(last.arguments.get(argument) or "") for argument in tool.names}
            same = last.tool == name and _without_pace(last.arguments) == _without_pace(arguments)
            if set(last.hosts) & set(hosts) and (named & touched or (same and not named)):
                return same and set(hosts) <= set(last.hosts)
        return False

    def _note_failure(self, listing: ToolListing, given: Mapping[str, Any], error: AnvylError, run: Run) -> None:
        """Record a failed call, and end a model's run if it failed before."""
        run.fail_call(listing.name, error)
        if not listing.reads and run.by_rules:
            run.record_impossible(listing.name, given, error)
        if self._checks and self._checks.is_repeated(f"failed {listing.name}", given, ()):
            run.end(EndReason.REPEATED_FAILURE, error)

    async def _place(self, listing: ToolListing, given: Mapping[str, Any], run: Run) -> PlacedCall:
        arguments = _tool_arguments(listing, given)
        selector = host_argument.selector(given.get("host"))
        if self._checks is None:
            return await self._place_literally(listing, arguments, selector, run.question)
        if not run.by_rules:
            return await self._checks.place(listing, arguments, selector)
        try:
            return await self._place_literally(listing, arguments, selector, run.question)
        except NotFound:
            # The rules use words as names; the checks also resolve images and roles: `restart the nginx`.
            return await self._checks.place(listing, arguments, selector)

    async def _place_literally(
        self, listing: ToolListing, arguments: dict[str, Any], selector: str, question: Question
    ) -> PlacedCall:
        check(listing, arguments)
        hosts = await resolve_targets(
            self._fleet, listing, arguments, selector or question.host or question.home, lister=self._inventory.outcomes
        )
        if question.host and (outside := set(hosts) - set(self._fleet.select(question.host))):
            raise Denied(f"this question is about {question.host} only, not {', '.join(sorted(outside))}")
        return PlacedCall(arguments, hosts)

    async def _proposal(
        self,
        listing: ToolListing,
        placed: PlacedCall,
        given: Mapping[str, Any],
        run: Run,
        id_: str,
        created: Collection[str],
    ) -> Proposal:
        """The proposal for a change, on the hosts where it is possible.

        Raises:
            AnvylError: it is possible on none.
        """
        question = run.question
        arguments, hosts = placed.arguments, placed.hosts
        consent = await self._consent(listing, placed, given, run)
        sources = ", ".join(dict.fromkeys(f"{call.tool} on {call.host}" for call in run.calls))
        sources = sources or run.shown or ("earlier answers" if question.turns else "")
        untrusted = run.untrusted or (sources if consent.unsaid else "")
        plan = await change_plan.plan_change(
            self._fleet,
            listing,
            arguments,
            hosts,
            on_behalf=question.on_behalf,
            lister=self._inventory.outcomes,
            offered=self._inventory.offered,
            created=created,
        )
        return Proposal(
            id_,
            listing.name,
            plan.arguments,
            plan.hosts,
            untrusted=untrusted,
            expected=plan.expected,
            problems=plan.problems,
            details=(*(run.remarks if run.by_rules and not run.proposals else ()), *plan.details),
            unsaid=consent.unsaid,
            doubts=await self._doubts(listing, arguments, hosts, run),
            root=consent.root,
        )

    async def _doubts(
        self, listing: ToolListing, arguments: Mapping[str, Any], hosts: Sequence[str], run: Run
    ) -> tuple[str, ...]:
        if run.by_rules or self._checks is None:
            return tuple(run.doubts) if run.by_rules else ()
        return await self._checks.doubts(listing, arguments, hosts)

    async def _untrusted_proposal(
        self, listing: ToolListing, given: Mapping[str, Any], id_: str, run: Run, created: Collection[str]
    ) -> Proposal | None:
        """The proposal for a denied change that untrusted text may have caused, which only a person can approve.

        None if nobody is asked now: it cannot be made; the question only reads, and it is reported; or the question
        does not name its objects, and it waits. The run ends in the last two cases.
        """
        question = run.question
        arguments = _tool_arguments(listing, given)
        try:
            check(listing, arguments)
            selector = host_argument.selector(given.get("host")) or question.host or question.home
            hosts = await resolve_targets(self._fleet, listing, arguments, selector)
        except AnvylError:
            return None
        if question.host and not set(hosts) <= set(self._fleet.select(question.host)):
            return None
        if self._checks and self._checks.wish.intent == "read":
            run.end(EndReason.UNTRUSTED_CHANGE)
            run.set_untrusted_aside(listing.name)
            return None
        try:
            proposal = await self._proposal(listing, PlacedCall(arguments, hosts), given, run, id_, created)
        except AnvylError:
            return None
        if self._checks and self._checks.may_mean(listing, arguments):
            return proposal
        run.end(EndReason.UNTRUSTED_CHANGE)
        run.propose(proposal)
        return None

    async def _consent(
        self, listing: ToolListing, placed: PlacedCall, given: Mapping[str, Any], run: Run
    ) -> RequiredConsent:
        """The consent that a change needs. `given`: the arguments before the checks changed them."""
        same = all(placed.arguments.get(name) == given.get(name) for name in listing.names)
        # The checks may have replaced a name from the question with a similar one that is not in it.
        by_rules = (run.by_rules and same) or self._checks is None
        selector = host_argument.selector(given.get("host"))
        hosts_said = by_rules or not selector
        if not hosts_said:
            with suppress(AnvylError):
                home = run.question.host or run.question.home
                hosts_said = placed.hosts == await resolve_targets(self._fleet, listing, placed.arguments, home)
        if self._checks and not hosts_said:
            hosts_said = await self._checks.says_hosts(listing, placed.arguments, selector, placed.hosts)
        return required_consent(
            listing,
            placed.arguments,
            placed.hosts,
            said=self._checks.said if self._checks else run.question.text,
            root_reasons=self._root_reasons,
            hosts_said=hosts_said,
            by_rules=by_rules,
            nothing_read=not (run.question.turns or run.shown or self._has_read(run)),
        )

    def _has_read(self, run: Run) -> bool:
        """Whether the model has seen something that others wrote, and not only what became of its changes here."""
        local = self._fleet.local.name
        return bool(run.failures) or any(
            not call.ok or call.host != local or self._fleet.tool(call.tool).reads for call in run.calls
        )


async def decide_proposals(run: Run, ids: Sequence[str], decide: Decide) -> dict[str, bool]:
    """Have the changes of one step, by the ids of their calls, decided in order; those left pending are left out."""
    proposals = run.move_to_end(ids)
    await run.question.on_proposals(proposals)
    decisions: dict[str, bool] = {}
    for proposal in proposals:
        answer = await decide(proposal)
        if answer is not None:
            proposal.decide(approved=answer)
            decisions[proposal.id] = answer
    return decisions


def _tool_arguments(listing: ToolListing, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without `host`, coerced to the tool's schema."""
    return coerce_arguments(listing.input_schema, {name: value for name, value in given.items() if name != "host"})


def _without_pace(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that say what is changed, not how long it may take."""
    return {name: value for name, value in arguments.items() if name not in PACE}


def _count_call(listing: ToolListing, run: Run) -> None:
    """Count a call against the limit for one question.

    Raises:
        OverBudget: the limit is exceeded.
    """
    kind, most = ("reads", MOST_READS) if listing.reads else ("changes", MOST_CHANGES)
    if run.count_call(kind) > most:
        raise OverBudget(f"more than {most} {kind} for one question")
