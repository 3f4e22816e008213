"""How much one caller may ask for, and how much this host does at once."""

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
"""Calls of one caller in the long run. Callers of this machine are not counted."""
BURST: Mapping[Scope, float] = {"read": 40, "operate": 20, "exec": 2}
"""Calls of one caller after a pause. An order to a whole host makes many changes; `AT_ONCE` bounds their load."""
AT_ONCE: Mapping[Scope, int] = {"read": 32, "operate": protocol_keys.CHANGES_AT_ONCE, "exec": 2}
"""Calls of all callers together."""
MOST_WAITING = 64
MOST_WAITING_EACH = 32
"""Of one remote caller, so that it leaves room for others."""
LONGEST_WAIT = 10.0
MOST_FAILED_ATTEMPTS = 10
FAILED_ATTEMPT_SECONDS = 60.0
MOST_REMEMBERED = 4096


class Overloaded(Busy):
    """Too much was asked for, and nothing was done."""

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
        """Room for one call.

        Raises:
            Overloaded: this caller asks too often, or too many calls wait already.
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
        """Count one request of a caller from elsewhere, without a place of its own.

        Raises:
            Overloaded: this caller asks too often.
        """
        if not _is_local(caller):
            self._take_token(caller, scope)

    def _take_token(self, caller: Caller, scope: Scope) -> None:
        now, rate, burst = self._clock(), PER_SECOND[scope], max(BURST[scope], PER_SECOND[scope])
        key = (_identity(caller), scope)
        bucket = self._buckets.setdefault(key, _Bucket(burst, now))
        self._buckets.move_to_end(key)
        if len(self._buckets) > MOST_REMEMBERED:
            self._buckets.popitem(last=False)
        bucket.level = min(burst, bucket.level + max(0.0, now - bucket.at) * rate)
        bucket.at = now
        if bucket.level < 1:
            raise Overloaded(
                f"`{caller.name}` asks too often: {rate:g} `{scope}` calls a second are allowed",
                retry_after=(1 - bucket.level) / rate,
            )
        bucket.level -= 1

    async def _wait(self, caller: Caller, semaphore: anyio.Semaphore, scope: Scope) -> None:
        who = _identity(caller)
        if self._waiting.total() >= MOST_WAITING or (not _is_local(caller) and self._waiting[who] >= MOST_WAITING_EACH):
            raise Overloaded("this host is busy: too many calls wait already", retry_after=1)
        self._waiting[who] += 1
        try:
            with anyio.fail_after(LONGEST_WAIT):
                await semaphore.acquire()
        except TimeoutError as error:
            raise Overloaded(
                f"this host is busy: {AT_ONCE[scope]} `{scope}` calls run and none of them ends",
                retry_after=1,
            ) from error
        finally:
            self._waiting[who] -= 1
            if not self._waiting[who]:
                del self._waiting[who]


class FailedAttempts:
    """Wrong secrets per address. It slows down who guesses, and never who knows."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def note(self, address: str) -> None:
        """Count one."""
        origin = _network_of(address)
        times = self._times.setdefault(origin, deque(maxlen=MOST_FAILED_ATTEMPTS))
        times.append(self._clock())
        self._times.move_to_end(origin)
        if len(self._times) > MOST_REMEMBERED:
            self._times.popitem(last=False)

    def wait(self, address: str) -> int:
        """Seconds until another guess is heard; 0 when it is now."""
        times = self._times.get(_network_of(address))
        if times is None or len(times) < MOST_FAILED_ATTEMPTS:
            return 0
        return max(0, ceil(times[0] + FAILED_ATTEMPT_SECONDS - self._clock()))


def _is_local(caller: Caller) -> bool:
    return caller.how in ("local", "loopback")


def _identity(caller: Caller) -> str:
    return caller.id or f"{caller.how}:{caller.name}"


def _network_of(address: str) -> str:
    """One customer's network counts as one: whoever has an IPv6 address has 2⁶⁴ of them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed) >> 64 << 64))
