"""Rate limits, concurrency limits, and the limit on wrong secrets."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import pytest

from anvyl_mcp.core.errors import Busy
from anvyl_mcp.server.auth.callers import LOCAL, Caller, implied_scopes
from anvyl_mcp.server.auth.limits import (
    AT_ONCE,
    MAX_WAITING,
    MAX_WAITING_PER_CALLER,
    FailedAttempts,
    Limits,
    Overloaded,
)
from anvyl_mcp.server.tool import Scope

REMOTE = Caller("nas", implied_scopes(["exec"]), "token", "192.0.2.1", "aaaa")
OTHER = Caller("nas", implied_scopes(["exec"]), "token", "192.0.2.1", "bbbb")
NEAR = Caller("me", implied_scopes(["exec"]), "loopback", "127.0.0.1", "uid:1000")


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def calls(limits: Limits, caller: Caller, scope: Scope) -> int:
    """Count consecutive calls until one is refused."""
    for number in range(1000):
        try:
            async with limits.slot(caller, scope):
                pass
        except Busy:
            return number
    return 1000


@pytest.mark.parametrize(("scope", "burst", "a_second"), [("read", 40, 20), ("operate", 20, 2), ("exec", 2, 1)])
async def test_a_remote_caller_has_a_rate_limit_per_scope(scope: Scope, burst: int, a_second: int) -> None:
    clock = Clock()
    limits = Limits(clock=clock)

    assert await calls(limits, REMOTE, scope) == burst
    assert await calls(limits, OTHER, scope) == burst
    clock.now += 1
    assert await calls(limits, REMOTE, scope) == a_second
    clock.now += 3600
    assert await calls(limits, REMOTE, scope) == burst


async def test_a_refusal_says_when_to_retry() -> None:
    limits = Limits(clock=Clock())
    await calls(limits, REMOTE, "exec")

    with pytest.raises(Overloaded, match="too many requests from `nas`: the limit is 1 `exec`") as raised:
        async with limits.slot(REMOTE, "exec"):
            pass

    assert raised.value.retry_after == 1 and raised.value.hint == "try again in 1 s"
    assert raised.value.code == "busy"


async def test_callers_on_this_machine_have_no_rate_limit() -> None:
    limits = Limits(clock=Clock())

    assert await calls(limits, LOCAL, "exec") == await calls(limits, NEAR, "exec") == 1000


@pytest.mark.parametrize("scope", AT_ONCE)
async def test_concurrent_calls_are_limited_and_the_next_one_waits(scope: Scope) -> None:
    limits = Limits()
    entered, leave = anyio.Event(), anyio.Event()

    async def late() -> None:
        async with limits.slot(NEAR, scope):
            entered.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            async with AsyncExitStack() as running:
                for _ in range(AT_ONCE[scope]):
                    await running.enter_async_context(limits.slot(NEAR, scope))
                group.start_soon(late)
                await anyio.wait_all_tasks_blocked()
                assert not entered.is_set()
                leave.set()
            await entered.wait()


async def test_the_queue_is_limited_and_one_remote_caller_cannot_fill_it() -> None:
    limits = Limits(clock=Clock())
    with anyio.fail_after(5):
        async with AsyncExitStack() as running, anyio.create_task_group() as group:
            for _ in range(AT_ONCE["read"]):
                await running.enter_async_context(limits.slot(NEAR, "read"))

            async def one(caller: Caller) -> None:
                async with limits.slot(caller, "read"):
                    pass

            for _ in range(MAX_WAITING_PER_CALLER):
                group.start_soon(one, REMOTE)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(Overloaded, match="too many calls are waiting"):
                await one(REMOTE)
            for _ in range(MAX_WAITING - MAX_WAITING_PER_CALLER):
                group.start_soon(one, NEAR)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(Overloaded, match="too many calls are waiting"):
                await one(NEAR)
            async with limits.slot(NEAR, "operate"):
                pass
            group.cancel_scope.cancel()
    async with limits.slot(NEAR, "read"):
        assert not limits._waiting


async def test_waiting_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anvyl_mcp.server.auth.limits.LONGEST_WAIT", 0.0)
    limits = Limits()

    async with limits.slot(NEAR, "exec"), limits.slot(NEAR, "exec"):
        with pytest.raises(Overloaded, match="calls are still running"):
            async with limits.slot(NEAR, "exec"):
                pass
    async with limits.slot(NEAR, "exec"), limits.slot(NEAR, "exec"):
        pass


async def test_a_failed_call_releases_its_slot() -> None:
    limits = Limits()
    for _ in range(AT_ONCE["exec"] + 1):
        with pytest.raises(ZeroDivisionError):
            async with limits.slot(LOCAL, "exec"):
                raise ZeroDivisionError


async def test_the_number_of_remembered_callers_is_bounded() -> None:
    limits = Limits(clock=Clock())
    for number in range(5000):
        async with limits.slot(Caller("x", implied_scopes(["read"]), "jwt", id=str(number)), "read"):
            pass

    assert len(limits._buckets) <= 4096


def test_ten_wrong_secrets_a_minute_are_allowed() -> None:
    clock = Clock()
    attempts = FailedAttempts(clock=clock)

    for _ in range(10):
        assert attempts.retry_after("192.0.2.1") == 0
        attempts.record("192.0.2.1")
        clock.now += 1

    assert attempts.retry_after("192.0.2.1") == 50
    assert attempts.retry_after("192.0.2.2") == 0
    clock.now += 50
    assert attempts.retry_after("192.0.2.1") == 0
    attempts.record("192.0.2.1")
    assert attempts.retry_after("192.0.2.1") == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "192.0.2.1", False),
    ],
)
def test_addresses_of_one_network_count_as_one(one: str, other: str, same: bool) -> None:
    attempts = FailedAttempts(clock=Clock())
    for _ in range(10):
        attempts.record(one)

    assert bool(attempts.retry_after(other)) is same


def test_the_number_of_remembered_addresses_is_bounded() -> None:
    attempts = FailedAttempts(clock=Clock())
    for number in range(5000):
        attempts.record(f"10.0.{number // 256}.{number % 256}")

    assert len(attempts._times) <= 4096
