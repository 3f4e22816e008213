"""What can be wrong, and the alerts about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from anvyl_mcp.core import text
from anvyl_mcp.peers.notices.notice import Level, Notice

TroubleKind = Literal[
    "gone", "engine", "disk", "unhealthy", "restarting", "stopped", "restarted", "died", "memory", "cpu", "filling"
]
CONTAINER_KINDS: frozenset[TroubleKind] = frozenset({"unhealthy", "restarting", "stopped", "restarted", "died"})


@dataclass(frozen=True, slots=True)
class Trouble:
    """One problem. `subject` is a container's name or a disk's mount point; `rule` is the condition that found it."""

    host: str
    kind: TroubleKind
    subject: str = ""
    rule: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The key of notices about it."""
        return (self.host, self.kind, self.subject, self.rule)

    @property
    def thing(self) -> str:
        """What it is about: `web on nas`."""
        if self.kind in ("disk", "filling"):
            return f"disk {self.subject} on {self.host}"
        return f"{self.subject} on {self.host}" if self.subject else self.host


@dataclass(frozen=True, slots=True)
class Found:
    """A problem that a check found now. `began`: when it did, in Unix time; 0 if now."""

    trouble: Trouble
    message: str
    urgent: bool = False
    began: float = 0.0


@dataclass(frozen=True, slots=True)
class Alert:
    """A problem started, or is over. Unix times."""

    trouble: Trouble
    message: str
    began: float
    at: float
    over: bool = False
    urgent: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document; `text` is the field that chat webhooks show."""
        rule = {"rule": self.trouble.rule} if self.trouble.rule else {}
        return {
            "event": "recovered" if self.over else "trouble",
            "host": self.trouble.host,
            "kind": self.trouble.kind,
            "subject": self.trouble.subject,
            **rule,
            "message": self.message,
            "since": text.format_timestamp(self.began),
            "at": text.format_timestamp(self.at),
            "text": f"{'✓' if self.over else '✗'} {self.message}",
        }

    def as_notice(self) -> Notice:
        """Return the notice for people."""
        one = self.trouble
        # What began and ended between two checks is a container that exited and runs again.
        word = "Problem" if not self.over else "Restarted" if self.began == self.at else "Recovered"
        title = text.one_line(f"{word}: {one.thing}")
        body = text.one_line(self.message).rstrip(".") + "."
        level: Level = "recovered" if self.over else "problem"
        return Notice(title, body, level, self.at, one.key, self.urgent, self.as_dict())


def recovery_message(trouble: Trouble, seconds: float) -> str:
    """Say that a problem is over."""
    on_host = f" on {trouble.host}"
    whose = f"{trouble.subject}{on_host}" if trouble.subject else trouble.host
    what = {
        "gone": f"{trouble.host} is back",
        "engine": f"the Docker engine{on_host} answers again",
        "disk": f"disk {trouble.subject}{on_host} has room again",
        "unhealthy": f"{whose} is no longer unhealthy",
        "restarting": f"{whose} no longer restarts",
        "stopped": f"{whose} is no longer stopped",
        "restarted": f"{whose} restarts less often",
        "died": f"{whose} dies less often",
        "memory": f"memory of {whose} is below the limit again",
        "cpu": f"CPU of {whose} is below the limit again",
        "filling": f"disk {trouble.subject}{on_host} no longer fills up that fast",
    }[trouble.kind]
    return f"{what}, after {text.format_duration(max(seconds, 1))}"
