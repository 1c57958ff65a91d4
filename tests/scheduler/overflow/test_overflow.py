"""Quotes of remotes, and the choice among them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from scheduler.contract import PlacementKind
from scheduler.overflow.overflow import (
    EXPLORE_EVERY,
    MOST_ERROR_SHARE,
    Explorer,
    RemoteBlock,
    RemoteQuote,
    quote_remote,
)
from scheduler.placement_state import Placement, PlacementState
from scheduler.pricing import RateTier, TokenRates
from scheduler.resident import Resident
from tests.scheduler.requests_made import request

RATES = TokenRates(
    row_id="row",
    tiers=(
        RateTier(uncached_input=1_000_000, cached_input=100_000, cache_write=0, output=5_000_000),
    ),
)


def quote(name: str, nano_usd: int | None, blocked: RemoteBlock = RemoteBlock.FREE) -> RemoteQuote:
    return RemoteQuote(
        placement=name, blocked=blocked, ttft_s=None, hit_tokens=0, nano_usd=nano_usd,
        effective_nano_usd=math.inf if nano_usd is None else float(nano_usd),
    )  # fmt: skip


def test_the_cheapest_is_taken_and_every_fiftieth_explores() -> None:
    explorer = Explorer()
    quotes = [quote("dear", 9), quote("cheap", 2), quote("unknown", None)]
    taken = []
    for _ in range(4 * EXPLORE_EVERY):
        chosen = explorer.choose(quotes)
        assert chosen is not None
        assert explorer.choose(quotes) == chosen, "to ask changes nothing"
        explorer.record_try(chosen[0].placement)
        taken.append(chosen[0].placement)
    assert (taken.count("cheap"), taken.count("dear"), taken.count("unknown")) == (196, 4, 0)


def signed(name: str, nano_usd: int | None, **fields: Any) -> RemoteQuote:
    return replace(quote(name, nano_usd, **fields), signed=True)


def test_a_session_stays_where_its_reasoning_was_signed_up_to_a_premium() -> None:
    explorer = Explorer()
    cheap = quote("cheap", 100)
    for _ in range(2 * EXPLORE_EVERY):  # a session is never moved to explore
        chosen = explorer.choose([cheap, signed("signer", 200)])
        assert chosen is not None
        assert chosen[0].placement == "signer"
        assert "signatures" in chosen[1]
        explorer.record_try("signer")
    for other in (
        signed("signer", 201),
        signed("signer", 150, blocked=RemoteBlock.GATE),
        signed("signer", None),
    ):
        chosen = Explorer().choose([cheap, other])
        assert chosen is not None
        assert chosen[0].placement == "cheap"
    chosen = Explorer().choose([quote("first", None), signed("signer", None)])
    assert chosen is not None
    assert chosen[0].placement == "signer"


def test_an_unknown_price_comes_last_and_what_is_blocked_never() -> None:
    explorer = Explorer()
    full = quote("cheap", 2, RemoteBlock.GATE)
    chosen = explorer.choose([full, quote("unknown", None), quote("dear", 9)])
    assert chosen is not None
    assert chosen[0].placement == "dear"
    chosen = explorer.choose([full, quote("unknown", None)])
    assert chosen is not None
    assert "unknown" in chosen[1]
    assert explorer.choose([full]) is None


def remote(**facts: Any) -> PlacementState:
    return PlacementState(
        Placement(
            name="far", kind=PlacementKind.REMOTE, model="moe", max_running=2,
            remote_class="eu", **facts,
        )
    )  # fmt: skip


def quoted(state: PlacementState, **given: Any) -> RemoteQuote:
    """A quote for 1000 prompt tokens and 10 expected ones."""
    given = {"hit_tokens": 0, "ttft_left_s": 2.0, "allowed": True, "admits": True, **given}
    choices = given.pop("choices", 1)
    asks = request("asks", prompt_tokens=1000, choices=choices)
    return quote_remote(state, asks, output_tokens=10.0, **given)


def test_cached_tokens_lower_the_price_and_failures_raise_the_effective_one() -> None:
    state = remote(rates=RATES)
    assert quoted(state).nano_usd == 1000 + 50
    assert quoted(state, hit_tokens=600).nano_usd == 400 + 60 + 50
    assert quoted(state, hit_tokens=5000).nano_usd == 100 + 50, "no more than there are"
    state.error_share = 0.5
    assert quoted(state).nano_usd == 1050
    assert quoted(state).effective_nano_usd == pytest.approx(2100)
    state.error_share = 1.0
    assert quoted(state).effective_nano_usd == pytest.approx(1050 / (1 - MOST_ERROR_SHARE))


def test_a_prefix_that_is_lost_at_home_counts_in_the_effective_price() -> None:
    made = quoted(remote(rates=RATES), lost_nano_usd=500.0)
    assert (made.nano_usd, made.effective_nano_usd) == (1050, 1550.0)
    assert quoted(remote(), lost_nano_usd=500.0).effective_nano_usd == math.inf


def test_an_unknown_price_is_not_free() -> None:
    made = quoted(remote())
    assert (made.blocked, made.nano_usd) == (RemoteBlock.FREE, None)
    assert made.effective_nano_usd == math.inf


def test_a_remote_that_cannot_honour_a_field_says_so() -> None:
    asks = request("asks", prompt_tokens=1000, unsupported_by=frozenset({"far"}))
    state = remote()
    made = quote_remote(
        state, asks, hit_tokens=0, output_tokens=1.0, ttft_left_s=2.0, allowed=False, admits=True
    )
    assert made.blocked is RemoteBlock.UNSUPPORTED


def test_a_quote_says_first_what_holds_longest() -> None:
    state = remote()
    state.ttft_s = 3.0
    assert quoted(state, allowed=False, admits=False).blocked is RemoteBlock.CLOSED
    assert quoted(state, admits=False).blocked not in (RemoteBlock.CLOSED, RemoteBlock.TTFT)
    assert quoted(state).blocked is RemoteBlock.TTFT
    assert quoted(state, ttft_left_s=3.0).blocked is RemoteBlock.FREE


def test_a_request_of_many_choices_runs_alone() -> None:
    state = remote()
    assert quoted(state, choices=5).blocked is RemoteBlock.FREE
    running = Resident(
        request=request("runs"), started_s=0.0, promised_ttft_s=1.0, kv_reserved_tokens=0,
        prefill_s=0.0, hit_tokens=0,
    )  # fmt: skip
    state.add(running, 0.0)
    assert quoted(state, choices=1).blocked is RemoteBlock.FREE
    assert quoted(state, choices=2).blocked is not RemoteBlock.FREE
