"""The scheduler behind its port: hedges, claims, the fleet, prices, reloads and the ticker."""

from __future__ import annotations

import asyncio
import math

import msgspec
import pytest

from scheduler.contract import (
    AttemptOutcome,
    Cancelled,
    EngineReport,
    RefusalReason,
    Refuse,
    ServingChanged,
)
from scheduler.limits.rate_limit import RateLimits
from scheduler.port import (
    NOT_ADMITTED,
    BranchKind,
    Started,
)
from scheduler.prefix.token_blocks import BlocksStored, CacheEvents, CacheReset
from tests import serving
from tests.gateway.scheduling.scheduling_made import (
    EU,
    NOW_S,
    ONE_USD,
    config,
    hosted,
    kinds,
    running,
    settings_of,
    submission,
)

IDLE = "<Scheduler: 0 queued, 0 running>"
ONE_AT_ONCE = RateLimits(concurrent_requests=1)
FAILED = AttemptOutcome.RETRYABLE


def report(name: str, *, context_tokens: int | None = None) -> EngineReport:
    return EngineReport(
        placement=name,
        at_s=NOW_S,
        running=0,
        waiting=0,
        kv_usage=0.0,
        prompt_tokens_total=0,
        generation_tokens_total=0,
        kv_capacity_tokens=100_000,
        context_tokens=context_tokens,
    )


async def test_a_hedge_that_cannot_start_at_once_is_withdrawn() -> None:
    made = running(settings_of(config(replicas=2, hedges=1.0)))
    for name in ("r1", "r2"):
        await made.submit(submission(name))
    [refused] = await made.submit(
        submission("r1~hedge", BranchKind.HEDGE, original_id="r1", beside="own/a")
    )
    assert isinstance(refused, Refuse)
    assert refused.reason is RefusalReason.UNAVAILABLE
    assert repr(made) == "<Scheduler: 0 queued, 2 running>"
    for name in ("r1", "r2"):
        made.end(name)
        made.ended(name)
    assert repr(made) == IDLE


async def test_a_hedge_avoids_the_failure_domain_of_the_first() -> None:
    made = running(settings_of(config(replicas=3, hedges=1.0), failure_domains=True))
    [started] = await made.submit(submission("r1"))
    assert isinstance(started, Started)
    [refused] = await made.submit(
        submission("h", BranchKind.HEDGE, original_id="r1", beside=started.start.placement)
    )
    assert isinstance(refused, Refuse)


async def test_hedges_have_a_budget_that_a_reload_does_not_refill() -> None:
    made = running(settings_of(config(replicas=2, slots=50, hedges=0.01)))
    refusals = []
    for number in range(8):
        await made.submit(submission(f"r{number}"))
        if number == 5:
            made.local.apply(settings_of(config(replicas=2, slots=50, hedges=0.02)))
        name = f"r{number}~hedge"
        [answer] = await made.submit(
            submission(name, BranchKind.HEDGE, original_id=f"r{number}", beside="own/a")
        )
        refusals.append(isinstance(answer, Refuse))
    assert refusals == [False] * 4 + [True] * 4


async def test_a_duplicate_id_is_refused_until_the_request_has_ended() -> None:
    made = running(settings_of(config(slots=4)))
    limits = RateLimits(concurrent_requests=2)
    await made.submit(submission("k/r1", key_limits=limits))
    [refused] = await made.submit(submission("k/r1", key_limits=limits))
    assert isinstance(refused, Refuse)
    assert (refused.reason, refused.other_request_id) == (RefusalReason.REQUEST_IN_FLIGHT, "r1")
    made.local.apply(settings_of(config(slots=3)))
    assert kinds(await made.submit(submission("k/r1"))) == [RefusalReason.REQUEST_IN_FLIGHT]
    # It has claimed nothing: a second request fits the key's limit, a third does not.
    assert kinds(await made.submit(submission("k/r2", key_limits=limits))) == ["start 1 at own/a"]
    assert kinds(await made.submit(submission("k/r3", key_limits=limits))) == ["key_limit"]
    made.end("k/r1")
    assert kinds(await made.submit(submission("k/r1"))) == [RefusalReason.REQUEST_IN_FLIGHT]
    made.ended("k/r1")
    assert kinds(await made.submit(submission("k/r1", key_limits=limits))) == ["start 1 at own/a"]


async def test_a_branch_of_a_request_that_has_ended_is_refused() -> None:
    made = running(settings_of(config(replicas=2, hedges=1.0)))
    await made.submit(submission("r1"))
    made.end("r1")
    made.ended("r1")
    for kind in (BranchKind.HEDGE, BranchKind.CONTINUATION):
        branch = submission("r1~more", kind, original_id="r1", beside="own/a")
        assert kinds(await made.submit(branch)) == [RefusalReason.REQUEST_IN_FLIGHT]
    assert repr(made) == IDLE


async def test_a_branch_has_an_id_of_its_own() -> None:
    made = running(settings_of(config(slots=4)))
    await made.submit(submission("r1"))
    more = submission("r1~more", BranchKind.CONTINUATION, original_id="r1")
    assert kinds(await made.submit(more)) == ["start 2 at own/a"]
    assert kinds(await made.submit(more)) == [RefusalReason.REQUEST_IN_FLIGHT]


async def test_what_is_not_admitted_holds_nothing() -> None:
    made = running(settings_of(config(slots=9)))
    await made.submit(submission("r1", key_limits=ONE_AT_ONCE, idempotency_key="once"))
    used = submission("r2", idempotency_key="once")
    limited = submission("r3", key_limits=ONE_AT_ONCE, idempotency_key="other")
    capped = submission("r4", max_cost_nano_usd=1)
    refusals = [answer for made_ in (used, limited, capped) for answer in await made.submit(made_)]
    reasons = [answer.reason for answer in refusals if isinstance(answer, Refuse)]
    assert reasons == [
        RefusalReason.IDEMPOTENCY_KEY_USED,
        RefusalReason.KEY_LIMIT,
        RefusalReason.PRICE_UNKNOWN,
    ]
    assert set(reasons) <= NOT_ADMITTED
    assert made.local.active_requests == 1
    assert repr(made) == "<Scheduler: 0 queued, 1 running>"
    made.end("r1")
    made.ended("r1")
    # The limit and the other idempotency key are free again.
    assert kinds(await made.submit(limited)) == ["start 1 at own/a"]


async def test_claims_are_released_once() -> None:
    made = running(settings_of(config(slots=9)))
    limits = RateLimits(concurrent_requests=2)
    for name in ("r1", "r2"):
        await made.submit(submission(name, key_limits=limits))
    for _ in range(3):
        made.ended("r1")
    assert kinds(await made.submit(submission("r3", key_limits=limits))) == ["start 1 at own/a"]
    assert kinds(await made.submit(submission("r4", key_limits=limits))) == ["key_limit"]


async def test_an_idempotency_key_stays_taken_only_where_that_is_asked() -> None:
    made = running(settings_of(config(slots=9)))
    for keep, expected in ((True, RefusalReason.IDEMPOTENCY_KEY_USED), (False, "start 1 at own/a")):
        name = f"keep-{keep}"
        await made.submit(submission(name, idempotency_key=name))
        made.ended(name, keep_key=keep)
        again = submission(f"{name}-again", idempotency_key=name)
        assert kinds(await made.submit(again)) == [expected]


async def test_reports_of_unknown_placements_are_ignored_and_other_events_are_no_reports() -> None:
    made = running(settings_of(config()))
    view = made.local.fleet
    made.serve("own/z")
    made.local.report(report("own/z", context_tokens=5))
    assert made.local.fleet is view
    with pytest.raises(TypeError, match="no report of the fleet"):
        made.local.report(Cancelled(request_id="r1"))


async def test_the_view_follows_what_the_fleet_reports() -> None:
    made = hosted(settings_of(config(replicas=2)))
    assert not made.local.fleet.serves
    made.serve("own/a")
    assert [view.serving for view in made.local.fleet.placements] == [True, False]
    made.local.report(report("own/a"))
    view = made.local.fleet
    made.local.report(report("own/a"))
    assert made.local.fleet is view, "nothing is new"
    made.local.report(report("own/a", context_tokens=4096))
    assert made.local.fleet.by_name["own/a"].context_tokens == 4096
    stored = BlocksStored(
        hashes=(1,), parent=None, token_ids=tuple(range(16)), block_tokens=16, salt=""
    )
    changes = (CacheReset(known=True, emptied=False), stored)
    assert not made.local.fleet.token_block_sizes["moe"]
    made.local.report(CacheEvents(placement="own/a", rank=0, ranks=1, changes=changes))
    assert made.local.fleet.token_block_sizes["moe"] == (16,)


async def test_a_drained_placement_takes_nothing_new_until_it_is_taken_back() -> None:
    made = running(settings_of(config(replicas=2, slots=4)))
    for number in range(4):
        await made.submit(submission(f"r{number}"))
    counts = {s.facts.name: len(s.residents) for s in made.local.core.placements}
    assert await made.local.drain("own/a") == counts["own/a"] > 0
    assert [view.serving for view in made.local.fleet.placements] == [False, True]
    made.serve("own/a")  # a probe does not take it back, nor does a reload
    made.local.apply(settings_of(config(replicas=2, slots=5)))
    for number in range(4, 6):
        answers = await made.submit(submission(f"r{number}"))
        assert kinds(answers) == ["start 1 at own/b"]
    await made.local.undrain("own/a")
    assert [view.serving for view in made.local.fleet.placements] == [True, True]
    assert await made.local.drain("nowhere") == 0


async def test_the_ranks_of_a_replica_are_drained_with_it() -> None:
    pool = msgspec.structs.replace(
        serving.pool(["http://a"]), data_parallel_ranks=2, pin_ranks=True
    )
    made = running(settings_of(config(pools=[pool])))
    names = [view.name for view in made.local.fleet.placements]
    assert len(names) == 2
    for number in range(3):
        await made.submit(submission(f"r{number}"))
    assert await made.local.drain("own/a") == 3
    assert not made.local.fleet.serves
    pool = msgspec.structs.replace(pool, data_parallel_ranks=3)
    made.local.apply(settings_of(config(pools=[pool])))
    made.serve(*(view.name for view in made.local.fleet.placements))
    assert len(made.local.fleet.placements) == 3
    assert not made.local.fleet.serves
    await made.local.undrain("own/a")
    assert all(view.serving for view in made.local.fleet.placements)


async def test_figures_show_what_has_a_server_or_runs_something() -> None:
    made = hosted(settings_of(config(replicas=2)))
    made.serve("own/b")
    made.targets.pop("own/b")

    async def shown() -> set[str]:
        figures = await made.local.figures()
        return {placement.name for placement in figures.snapshot.placements}

    assert await shown() == {"own/a"}
    assert made.local.is_idle("own/b")
    await made.submit(submission("r1"))
    assert await shown() == {"own/a", "own/b"}
    assert not made.local.is_idle("own/b")
    assert made.local.is_idle("own/a")


async def test_explain_has_the_age_of_a_decision() -> None:
    made = running(settings_of(config()))
    await made.submit(submission("r1"))
    made.clock.now_s += 3.0
    explained = await made.local.explain("r1")
    assert explained is not None
    assert explained.age_s == 3.0
    assert await made.local.explain("nobody") is None


CHANGING = """
showback:
  - id: old
    pool: own
    usd_per_mtok: {input: "1", cached_input: "1", output: "1"}
    valid_from: "2026-01-01"
    valid_to: "2026-10-01"
    source: test
    checked_at: "2026-01-01"
  - id: new
    pool: own
    usd_per_mtok: {input: "3", cached_input: "3", output: "3"}
    valid_from: "2026-10-01"
    source: test
    checked_at: "2026-01-01"
"""


async def test_a_dated_price_holds_for_requests_that_come_after_it() -> None:
    made = running(settings_of(config(), catalog=CHANGING))
    for name in ("runs", "waits"):
        await made.submit(submission(name))
    assert made.metering._next_change_s == made.metering.unix_s + 2.0
    made.clock.now_s += 2.0
    assert made.metering._reprice() == math.inf
    await made.submit(submission("after", arrival_s=made.clock.now_s))
    for name in ("runs", "waits", "after"):
        made.end(name)
    assert [account.price_row_id for account in made.accounts] == ["old", "old", "new"]
    assert [a.charged_nano_usd for a in made.accounts] == [110_000, 110_000, 330_000]
    [state] = made.local.core.placements
    assert state.facts.rates is not None
    assert state.facts.rates.row_id == "new"


async def test_a_placement_that_came_while_a_request_waited_has_its_prices_of_now() -> None:
    made = running(settings_of(config(), catalog=ONE_USD))
    await made.submit(submission("r1"))
    waiting = await made.submit(submission("r2"))
    made.local.apply(settings_of(config(replicas=2), catalog=ONE_USD.replace("one", "two")))
    made.serve("own/b")
    assert kinds(waiting) == ["queued 1", "start 1 at own/b"]
    made.end("r2")
    assert [account.price_row_id for account in made.accounts] == ["two"]
    assert made.accounts[0].charged_nano_usd == 110_000


async def test_a_reload_lets_what_runs_end_where_it_runs() -> None:
    made = running(settings_of(config(replicas=2), catalog=ONE_USD))
    answers = [await made.submit(submission(name)) for name in ("r1", "r2")]
    waiting = await made.submit(submission("r3"))
    made.local.apply(settings_of(config(replicas=1), catalog=ONE_USD))
    assert [view.name for view in made.local.fleet.placements] == ["own/a"]
    on_b = next(n for n, a in zip(("r1", "r2"), answers, strict=True) if "own/b" in kinds(a)[0])
    on_a = "r1" if on_b == "r2" else "r2"
    made.end(on_b)
    assert kinds(waiting) == ["queued 1"], "the place is gone with its server"
    assert made.accounts[0].placement == "own/b"
    made.end(on_a)
    assert kinds(waiting) == ["queued 1", "start 1 at own/a"]
    for name in ("r1", "r2", "r3"):
        made.ended(name)
    assert repr(made) == IDLE


async def test_a_reload_refuses_what_waits_for_a_model_that_is_gone() -> None:
    made = running(settings_of(config()))
    await made.submit(submission("r1"))
    waiting = await made.submit(submission("r2"))
    other = msgspec.structs.replace(serving.pool(["http://a"]), model="other")
    made.local.apply(settings_of(config(pools=[other])))
    assert kinds(waiting) == ["queued 1", RefusalReason.UNKNOWN_MODEL]
    made.end("r1")
    for name in ("r1", "r2"):
        made.ended(name)
    assert repr(made) == IDLE


async def test_the_ticker_expires_what_waits_too_long() -> None:
    made = running(settings_of(config()))
    ticking = asyncio.create_task(made.local.run())
    try:
        await made.submit(submission("r1"))
        waiting = await made.submit(submission("r2", max_queue_s=1.0))
        assert kinds(waiting) == ["queued 1"]
        made.clock.now_s += 1.5
        async with asyncio.timeout(5.0):
            while len(waiting) < 2:
                await asyncio.sleep(0.01)
        assert kinds(waiting) == ["queued 1", RefusalReason.QUEUE_TIMEOUT]
    finally:
        ticking.cancel()


async def test_remotes_take_what_the_pool_cannot() -> None:
    settings = settings_of(config(remotes=[serving.remote("http://far")]))
    made = hosted(settings)
    made.serve("far")
    assert kinds(await made.submit(submission("r1", remote_classes=EU))) == ["start 1 at far"]
    local = await made.submit(submission("r2"))
    assert kinds(local) == [RefusalReason.UNAVAILABLE]
    made.local.report(ServingChanged(placement="far", serving=False, reason="gone"))
    assert kinds(await made.submit(submission("r3", remote_classes=EU)))[-1] == (
        RefusalReason.UNAVAILABLE
    )
