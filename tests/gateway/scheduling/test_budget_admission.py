"""What a request reserves in its budgets, and that nothing of it is left whatever happens."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import structs

from scheduler.budgets.budget import Budget
from scheduler.budgets.budget_window import Period
from scheduler.contract import (
    AttemptOutcome,
    RefusalReason,
    Refuse,
)
from scheduler.limits.rate_limit import RateLimits
from scheduler.port import (
    CountPrompt,
    Started,
)
from tests.gateway.scheduling.scheduling_made import (
    ONE_USD,
    Hosted,
    config,
    kinds,
    running,
    settings_of,
    submission,
)

IDLE = "<Scheduler: 0 queued, 0 running>"
ONE_AT_ONCE = RateLimits(concurrent_requests=1)
FAILED = AttemptOutcome.RETRYABLE


def budget(cap_nano_usd: int) -> Budget:
    return Budget(tenant="team", key_id="", period=Period.MONTH, cap_nano_usd=cap_nano_usd)


def capped(cap_nano_usd: int, *, slots: int = 9) -> Hosted:
    """One server at 1000 nano-USD a token, for a team with a budget."""
    return running(
        settings_of(config(slots=slots), catalog=ONE_USD), budgets=[budget(cap_nano_usd)]
    )


async def test_a_budget_reserves_the_bound_and_releases_it_at_the_end() -> None:
    made = capped(10_000_000)
    [answer] = await made.submit(submission("r1", prompt_tokens_bound=150))
    assert isinstance(answer, Started)
    assert made.reserved() == 250_000
    made.end("r1")
    assert made.reserved() == 140_000
    made.ended("r1")
    assert made.reserved() == 0


async def test_the_prompt_is_counted_where_its_bound_does_not_fit() -> None:
    made = capped(1_000_000)
    answers = await made.submit(submission("r1", prompt_tokens_bound=5000))
    assert answers == [CountPrompt(request_id="r1")]
    assert made.reserved() == 0
    await made.local.prompt_counted("r1", 200)
    assert kinds(answers) == ["CountPrompt", "start 1 at own/a"]
    assert made.reserved() == 300_000
    await made.local.prompt_counted("r1", 200)
    await made.local.prompt_counted("nobody", 200)
    assert len(answers) == 2


@pytest.mark.parametrize("counted", [4000, None])
async def test_a_prompt_that_is_too_dear_is_refused_and_holds_nothing(counted: int | None) -> None:
    made = capped(1_000_000)
    asked = submission("r1", prompt_tokens_bound=5000, idempotency_key="once")
    answers = await made.submit(asked)
    await made.local.prompt_counted("r1", counted)
    assert kinds(answers) == ["CountPrompt", RefusalReason.BUDGET_SPENT]
    refuse = answers[-1]
    assert isinstance(refuse, Refuse)
    [standing] = await made.local.budget_standings("team", "k") or ()
    assert refuse.window is not None
    assert (refuse.window.period, refuse.window.ends_unix_s) == (
        standing.period,
        standing.ends_unix_s,
    )
    assert (made.local.active_requests, made.reserved()) == (0, 0)
    cheap = structs.replace(asked, prompt_tokens_bound=10)
    assert kinds(await made.submit(cheap)) == ["start 1 at own/a"]


async def test_a_request_that_ends_before_its_prompt_is_counted_holds_nothing() -> None:
    made = capped(1_000_000)
    answers = await made.submit(submission("r1", prompt_tokens_bound=5000))
    made.ended("r1")
    await made.local.prompt_counted("r1", 10)
    assert kinds(answers) == ["CountPrompt"]
    assert (made.local.active_requests, made.reserved()) == (0, 0)


async def test_a_request_that_is_cancelled_while_its_budget_is_asked_holds_nothing() -> None:
    made = capped(1_000_000)
    made.ledger.answers.clear()
    asked = submission("r1", key_limits=ONE_AT_ONCE, idempotency_key="once")
    task = asyncio.create_task(made.submit(asked))
    while not made.ledger.waiting:
        await asyncio.sleep(0)
    assert made.local.active_requests == 1
    assert kinds(await made.submit(asked)) == [RefusalReason.REQUEST_IN_FLIGHT]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (made.local.active_requests, made.reserved()) == (0, 0)
    made.ledger.answers.set()
    assert kinds(await made.submit(asked)) == ["start 1 at own/a"]


async def test_a_request_that_ends_while_its_budget_is_asked_holds_nothing() -> None:
    made = capped(1_000_000)
    made.ledger.answers.clear()
    task = asyncio.create_task(made.submit(submission("r1")))
    while not made.ledger.waiting:
        await asyncio.sleep(0)
    made.ended("r1")
    made.ledger.answers.set()
    assert await task == []
    assert (made.local.active_requests, made.reserved()) == (0, 0)
    assert repr(made) == IDLE
