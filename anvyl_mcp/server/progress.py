"""How a long piece of work says how far it is, and learns that nobody waits for it any more."""

from __future__ import annotations

from anvyl_mcp.server.tool import Injected


class Progress(Injected):
    """What a tool may report to; a face that can show progress overrides both members.

    Both may be used from a worker thread.
    """

    def __call__(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the work is; nobody listens by default."""

    @property
    def cancelled(self) -> bool:
        """Whether the caller gave up: work that can stop half way should poll this and stop."""
        return False
