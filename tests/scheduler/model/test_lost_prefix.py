"""A warm session goes to a remote last, and its prefix is part of the remote's price."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.model.lost_prefix import lost_prefix_nano_usd, waits_for_home
from scheduler.model.transitions import choose_remote
from scheduler.pricing import RateTier, TokenRates
from scheduler.step_time.step_model import QWEN3_30B_H100
from scheduler.tracked_request import TrackedRequest
from tests.scheduler.model.test_model_scheduler import EU, Model
from tests.scheduler.model.test_model_state import FAR, own
from tests.scheduler.requests_made import request

BLOCKS = tuple(range(1, 41))
PROMPT = 40 * 512 + 100
RATE_NANO_USD_PER_S = 700_000
CHEAP = TokenRates(
    row_id="far", tiers=(RateTier(uncached_input=1, cached_input=1, cache_write=1, output=1),)
)
SESSION: dict[str, Any] = {
    "prompt_tokens": PROMPT, "prefix_blocks": BLOCKS, "prefix_block_tokens": 512,
    "remote_classes": EU,
}  # fmt: skip


def warm(price: TokenRates = CHEAP) -> Model:
    """A home that served the session's last turn and is full now, and a remote."""
    one = Model(
        replace(own("a", slots=1), nano_usd_per_s=RATE_NANO_USD_PER_S), replace(FAR, rates=price)
    )
    assert one.submit("before", **SESSION) == ["before to a"]
    return one


def later(one: Model, **fields: Any) -> TrackedRequest:
    tracked = TrackedRequest(request("later", **{**SESSION, **fields}))
    one.state.set_expectations(tracked)
    return tracked


def test_the_next_turn_at_home_computes_the_whole_context() -> None:
    one = warm()
    tracked = later(one)
    context = PROMPT + tracked.output_tokens
    whole_s = QWEN3_30B_H100.prefill_time_s(context, context, 1)
    lost = lost_prefix_nano_usd(one.state, tracked)
    assert lost == pytest.approx(RATE_NANO_USD_PER_S * whole_s)
    cold = later(one, prefix_blocks=tuple(range(900, 940)))
    assert lost_prefix_nano_usd(one.state, cold) == 0.0


def test_it_is_in_the_effective_price_and_not_in_what_the_remote_takes() -> None:
    one = warm()
    quotes = {}
    cold: dict[str, Any] = {"prefix_blocks": tuple(range(900, 940))}
    for name, fields in (("warm", {}), ("cold", cold)):
        [quotes[name]] = choose_remote(one.state, later(one, **fields), 0.0, any_ttft=True)[2]
    assert quotes["warm"].nano_usd == quotes["cold"].nano_usd
    lost = lost_prefix_nano_usd(one.state, later(one))
    added = quotes["warm"].effective_nano_usd - quotes["cold"].effective_nano_usd
    assert added == pytest.approx(lost)


def test_a_warm_session_waits_as_long_as_a_remote_is_in_time() -> None:
    one = warm()
    assert waits_for_home(one.state, later(one), 0.0)
    assert not waits_for_home(one.state, later(one, prefix_blocks=()), 0.0)
    assert not waits_for_home(one.state, later(one), 3600.0), "no remote would be in time"
    assert not waits_for_home(one.state, later(one, remote_classes=frozenset()), 0.0)


def test_where_the_remote_costs_far_more_the_prefix_does_not_matter() -> None:
    tier = RateTier(uncached_input=10**12, cached_input=10**12, cache_write=10**12, output=10**12)
    one = warm(TokenRates(row_id="far", tiers=(tier,)))
    assert not waits_for_home(one.state, later(one), 0.0)
