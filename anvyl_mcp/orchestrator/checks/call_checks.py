"""What the calls of a capable model pass: the schema, names that exist, hosts. Its words are kept as it gave them.

No English is read to decide whether a call may be made; the words decide how much consent a change needs. Only after
something was read on the hosts, what the question does not ask for is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Denied
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.checks.guard import Guard, PlacedCall, in_words
from anvyl_mcp.orchestrator.language.intent import verbs_of
from anvyl_mcp.orchestrator.language.lexicon import is_english, spoken_language
from anvyl_mcp.peers.changes.argument_check import check
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.targets import resolve_targets


class CallChecks(Guard):
    """The checks for one run of a model that makes tool calls of its own."""

    ends_run = False

    async def place(self, listing: ToolListing, given: Mapping[str, Any], selector: str) -> PlacedCall:
        """A call with the names of existing objects, and with its hosts.

        Raises:
            AnvylError: it cannot be made; the message is for the model.
        """
        arguments = dict(given)
        selector = selector or self._question.host or self._question.home
        check(listing, arguments)
        if self._run.untrusted or (self._run.calls and self.wish.intent == "read"):
            # What was read may have put it forward: a log line, but also a label or a container's name.
            self._check_intent(listing)
        if self._run.untrusted:
            self._check_named_literally(listing, arguments)
        for argument, kind in listing.names.items():
            if wanted := str(arguments.get(argument) or ""):
                arguments[argument] = await self._existing(listing, kind, wanted, selector)
        hosts = await resolve_targets(self._fleet, listing, arguments, selector, lister=self.inventory.outcomes)
        if self._question.host and (outside := set(hosts) - set(self._fleet.select(self._question.host))):
            raise Denied(f"this question is about {self._question.host} only, not {', '.join(sorted(outside))}")
        return PlacedCall(arguments, hosts)

    async def expand(self, listing: ToolListing, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Nothing: a call stands for itself."""
        return []

    def doubts(self, listing: ToolListing) -> tuple[str, ...]:
        """Why the words, as far as they are understood, ask for something else than this kind of change."""
        if listing.reads or self._quotes_command(listing):
            return ()
        if self.wish.intent == "read":
            return ("your question only asks to look",)
        if self.wish.verbs and not self.wish.verbs & verbs_of(listing):
            return (f"you asked to {text.join_names(sorted(self.wish.verbs))}",)
        if not self.wish.verbs and (listing.safety == "destroys" or self._may_follow_others()):
            return (f"your words do not ask to {in_words(listing)}",)
        return ()

    def _may_follow_others(self) -> bool:
        """Whether the model has read something, and the words, in a language that we know, name no kind of change."""
        said, run = self._question.text, self._run
        looked = any(self._fleet.tool(call.tool).reads for call in run.calls)
        return bool(looked or run.failures or self._question.turns) and bool(is_english(said) or spoken_language(said))

    async def _existing(self, listing: ToolListing, kind: str, wanted: str, selector: str) -> str:
        """The name of the object that is wanted; a near name is put right if it is the only one."""
        hosts = self._fleet.select(selector) if selector else self._fleet.hosts
        objects = await self.inventory.objects(kind, hosts)
        if any(resolve.has_name(one, wanted) for one in objects):
            return wanted
        errors = await self.inventory.errors(kind, hosts)
        near = resolve.best_matches([wanted.lower(), *re.split(r"[\s/]+", wanted.lower())], objects)
        names = {one.name for one in near}
        if len(names) > 1:
            raise resolve.ambiguity_error(kind, wanted, near)
        if not names:
            raise resolve.no_match_error(kind, wanted, objects, errors, hosts=self._fleet.hosts, tool=listing.name)
        [name] = names
        self._run.note(f"took `{wanted}` as `{name}`")
        return name
