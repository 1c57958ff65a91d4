"""The calls of a tenant are bounded over all fronts, and most of them ask the scheduler nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from gateway.config.limits import LimitsConfig
from gateway.doors.entry.refusals import CallRefused
from gateway.doors.entry.tenant_calls import KEPT_PARTS, TENANT, TenantCalls
from gateway.scheduling.claims import Claims
from scheduler.limits.rate_limit import RateLimits, Refusal
from scheduler.port import SlotFreed


@dataclass
class Fronts:
    """Fronts before one scheduler's claims, and their calls in progress."""

    most: int
    count: int = 2
    claims: Claims = field(default_factory=Claims)
    asked: int = 0
    refused: list[str] = field(default_factory=list)
    tenants: list[str] = field(default_factory=lambda: ["team", "other"])
    running: list[list[asyncio.Task[None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.calls = [
            TenantCalls(
                self,  # type: ignore[arg-type]
                lambda: LimitsConfig(tenant_rpcs=self.most),
                self.refused.append,
                lambda: self.tenants,
            )
            for _ in range(self.count)
        ]
        self.running = [[] for _ in range(self.count)]

    async def take_slot(self, holder: str, limits: RateLimits) -> Refusal | None:
        self.asked += 1
        return self.claims.take_slot(holder, limits)

    def send(self, freed: SlotFreed) -> None:
        self.claims.free_slot(freed.key_id, 0.0)

    async def begin(self, front: int, tenant: str = "team") -> bool:
        """A call begins, or is refused."""
        begun: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def call() -> None:
            try:
                await self.calls[front].begin(tenant)
            except CallRefused:
                begun.set_result(False)
            else:
                begun.set_result(True)
                await asyncio.Event().wait()

        task = asyncio.create_task(call())
        if await begun:
            self.running[front].append(task)
            return True
        return False

    async def end(self, front: int) -> None:
        """The oldest call of a front ends."""
        task = self.running[front].pop(0)
        task.cancel()
        await asyncio.wait({task})

    @property
    def in_progress(self) -> int:
        return sum(map(len, self.running))

    @property
    def held(self) -> int:
        """Slots of the team that the scheduler counts."""
        return self.held_by("team")

    def held_by(self, tenant: str) -> int:
        """Slots that the scheduler counts."""
        return self.claims._limiter.running(f"tenant:{tenant}")


async def test_a_small_bound_is_exact_whichever_front_a_call_comes_to() -> None:
    fronts = Fronts(most=3)
    assert [await fronts.begin(i % 2) for i in range(4)] == [True, True, True, False]
    assert fronts.refused == [TENANT]
    assert await fronts.begin(0, "other")
    await fronts.end(1)
    assert await fronts.begin(0)
    assert not await fronts.begin(1)
    while fronts.running[0]:
        await fronts.end(0)
    assert fronts.held == 0


async def test_most_calls_ask_nothing() -> None:
    fronts = Fronts(most=4096)
    for _ in range(50):
        await fronts.begin(0)
        await fronts.begin(0)
        await fronts.end(0)
        await fronts.end(0)
    assert fronts.asked == 2


async def test_what_is_kept_is_bounded_and_given_back_when_the_bound_changes() -> None:
    fronts = Fronts(most=4 * KEPT_PARTS)
    for _ in range(20):
        await fronts.begin(0)
    for _ in range(20):
        await fronts.end(0)
    assert fronts.held == 4
    fronts.most = 1
    assert await fronts.begin(0)
    assert fronts.held == 1
    assert not await fronts.begin(1)


async def test_what_is_kept_of_a_deleted_tenant_is_given_back() -> None:
    fronts = Fronts(most=4 * KEPT_PARTS, count=1)
    for tenant in ("team", "gone", "gone"):
        await fronts.begin(0, tenant)
    await fronts.end(0)
    await fronts.end(0)
    assert (fronts.held, fronts.held_by("gone")) == (1, 2)
    # One that is known already asks for no cleaning up; the first call of another one does.
    await fronts.begin(0, "team")
    assert fronts.held_by("gone") == 2
    await fronts.begin(0, "other")
    assert (fronts.held, fronts.held_by("gone"), fronts.held_by("other")) == (1, 1, 1)
    await fronts.end(0)  # a call that had begun before the tenant was deleted
    assert fronts.held_by("gone") == 0
    assert await fronts.begin(0, "gone")
    assert fronts.held_by("gone") == 1


@given(
    most=st.integers(1, 200),
    count=st.integers(1, 3),
    steps=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=300),
)
def test_never_too_many_and_hardly_ever_too_few(
    most: int, count: int, steps: Sequence[tuple[int, bool]]
) -> None:
    asyncio.run(play(Fronts(most=most, count=count), steps))


async def play(fronts: Fronts, steps: Sequence[tuple[int, bool]]) -> None:
    kept = fronts.most // KEPT_PARTS
    for number, begins in steps:
        front = number % fronts.count
        if begins:
            before = fronts.in_progress
            if not await fronts.begin(front):
                assert before >= fronts.most - kept * (fronts.count - 1)
        elif fronts.running[front]:
            await fronts.end(front)
        assert fronts.in_progress <= fronts.most
        assert fronts.in_progress <= fronts.held <= fronts.in_progress + kept * fronts.count
    for tasks in fronts.running:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
