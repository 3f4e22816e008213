"""Rate limits per caller, concurrency limits per host, and a limit on wrong secrets per address."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import anyio

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import Busy
from anvyl_mcp.server.auth.callers import SCOPES, Caller

if TYPE_CHECKING:
    from anvyl_mcp.server.tool import Scope

PER_SECOND: Mapping[Scope, float] = {"read": 20, "operate": 2, "exec": 1}
"""Sustained call rate per remote caller. Callers on this machine are not limited."""
BURST: Mapping[Scope, float] = {"read": 40, "operate": 20, "exec": 2}
"""Calls of a caller after a pause. A command for a whole host makes many changes; `AT_ONCE` bounds their load."""
AT_ONCE: Mapping[Scope, int] = {"read": 32, "operate": protocol_keys.CHANGES_AT_ONCE, "exec": 2}
"""Concurrent calls of all callers."""
MAX_WAITING = 64
MAX_WAITING_PER_CALLER = 32
"""Per remote caller, so that it leaves room for others."""
LONGEST_WAIT = 10.0
MAX_FAILED_ATTEMPTS = 10
FAILED_ATTEMPT_SECONDS = 60.0
MAX_REMEMBERED = 4096


class Overloaded(Busy):
    """A limit was exceeded; the call was not run."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message, hint=f"try again in {max(1, ceil(retry_after))} s", retry_after=retry_after)


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class Limits:
    """Rate per caller, concurrency and queue per host."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, Scope], _Bucket] = OrderedDict()
        self._semaphores = {scope: anyio.Semaphore(AT_ONCE[scope]) for scope in SCOPES}
        self._waiting: Counter[str] = Counter()

    @asynccontextmanager
    async def slot(self, caller: Caller, scope: Scope) -> AsyncIterator[None]:
        """Hold a slot for one call.

        Raises:
            Overloaded: the caller exceeds its rate, or too many calls are waiting.
        """
        if not _is_local(caller):
            self._take_token(caller, scope)
        semaphore = self._semaphores[scope]
        try:
            semaphore.acquire_nowait()
        except anyio.WouldBlock:
            await self._wait(caller, semaphore, scope)
        try:
            yield
        finally:
            semaphore.release()

    def charge(self, caller: Caller, scope: Scope) -> None:
        """Count a request of a remote caller against its rate, without taking a slot.

        Raises:
            Overloaded: the caller exceeds its rate.
        """
        if not _is_local(caller):
            self._take_token(caller, scope)

    def _take_token(self, caller: Caller, scope: Scope) -> None:
        now, rate, burst = self._clock(), PER_SECOND[scope], max(BURST[scope], PER_SECOND[scope])
        key = (_identity(caller), scope)
        bucket = self._buckets.setdefault(key, _Bucket(burst, now))
        self._buckets.move_to_end(key)
        if len(self._buckets) > MAX_REMEMBERED:
            self._buckets.popitem(last=False)
        bucket.level = min(burst, bucket.level + max(0.0, now - bucket.at) * rate)
        bucket.at = now
        if bucket.level < 1:
            raise Overloaded(
                f"too many requests from `{caller.name}`: the limit is {rate:g} `{scope}` calls per second",
                retry_after=(1 - bucket.level) / rate,
            )
        bucket.level -= 1

    async def _wait(self, caller: Caller, semaphore: anyio.Semaphore, scope: Scope) -> None:
        who = _identity(caller)
        if self._waiting.total() >= MAX_WAITING or (
            not _is_local(caller) and self._waiting[who] >= MAX_WAITING_PER_CALLER
        ):
            raise Overloaded("this host is busy: too many calls are waiting", retry_after=1)
        self._waiting[who] += 1
        try:
            with anyio.fail_after(LONGEST_WAIT):
                await semaphore.acquire()
        except TimeoutError as error:
            raise Overloaded(
                f"this host is busy: {AT_ONCE[scope]} `{scope}` calls are still running",
                retry_after=1,
            ) from error
        finally:
            self._waiting[who] -= 1
            if not self._waiting[who]:
                del self._waiting[who]


class FailedAttempts:
    """Counts wrong secrets per address, to slow down guessing. Valid tokens are never delayed."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def record(self, address: str) -> None:
        """Count a wrong secret."""
        origin = _network_of(address)
        times = self._times.setdefault(origin, deque(maxlen=MAX_FAILED_ATTEMPTS))
        times.append(self._clock())
        self._times.move_to_end(origin)
        if len(self._times) > MAX_REMEMBERED:
            self._times.popitem(last=False)

    def retry_after(self, address: str) -> int:
        """Seconds until the next attempt is allowed; 0 if it is now."""
        times = self._times.get(_network_of(address))
        if times is None or len(times) < MAX_FAILED_ATTEMPTS:
            return 0
        return max(0, ceil(times[0] + FAILED_ATTEMPT_SECONDS - self._clock()))


def _is_local(caller: Caller) -> bool:
    return caller.how in ("local", "loopback")


def _identity(caller: Caller) -> str:
    return caller.id or f"{caller.how}:{caller.name}"


def _network_of(address: str) -> str:
    """The network an address belongs to: a /64 for IPv6, of which one customer has all addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed) >> 64 << 64))
