"""The cost of a pool beside the remotes' prices for its tokens."""

from __future__ import annotations

import msgspec
import pytest

from gateway.scheduling.pool_costs import KEPT_S
from scheduler.metering.totals import SECOND_NS
from scheduler.port import RemoteCost
from tests import serving
from tests.gateway.scheduling.scheduling_made import (
    Hosted,
    config,
    running,
    settings_of,
    submission,
)

CATALOG = """
remote_tokens:
  - id: far-2026
    provider: far
    model: moe
    usd_per_mtok: {input: "0.50", output: "2.00"}
    valid_from: "2026-01-01"
    source: test
    checked_at: "2026-01-01"
"""
HOUR_NS = 3600 * SECOND_NS


@pytest.fixture
async def made() -> Hosted:
    """One request of 100 prompt and 10 output tokens has run on the pool, for a second."""
    remote = serving.remote("http://far")
    priced = msgspec.structs.replace(remote, price_row="far/moe")
    free = msgspec.structs.replace(remote, name="unknown")
    hosted = running(settings_of(config(remotes=[priced, free]), catalog=CATALOG))
    await hosted.submit(submission("r1"))
    hosted.clock.now_s += 1.0
    hosted.end("r1")
    hosted.ended("r1")
    return hosted


async def test_the_tokens_of_a_pool_at_the_prices_of_remotes(made: Hosted) -> None:
    report = await made.local.pool_cost("own", HOUR_NS)
    assert report.pools == ("own",)
    assert report.cost is not None
    assert (report.cost.requests, report.cost.uncached_tokens, report.cost.output_tokens) == (
        1,
        100,
        10,
    )
    # 100 at 500 and 10 at 2000 nano-USD; the remote without a price is left out.
    expected = RemoteCost(
        remote="far",
        price_row_id="far-2026",
        nano_usd=70_000,
        nano_usd_per_mtok=70_000 * 1_000_000 // 110,
    )
    assert report.remotes == (expected,)


async def test_an_unknown_pool_has_no_cost_but_names_the_others(made: Hosted) -> None:
    report = await made.local.pool_cost("nowhere", HOUR_NS)
    assert (report.cost, report.remotes, report.pools) == (None, (), ("own",))


async def test_rates_are_kept_for_a_while(made: Hosted) -> None:
    before = await made.local.pool_rates()
    assert set(before) == {"own"}
    made.clock.now_s += KEPT_S / 2
    assert await made.local.pool_rates() is before
    made.clock.now_s += KEPT_S
    assert await made.local.pool_rates() is not before
