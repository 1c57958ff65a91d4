"""The remotes of one model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scheduler.contract import AttemptEnded, AttemptOutcome, Fault, PlacementKind
from scheduler.overflow.overflow import RemoteBlock
from scheduler.overflow.remotes import SPILL_MARGIN, Remotes, fits_context
from scheduler.placement_admission import PlacementAdmission
from scheduler.placement_state import Placement, PlacementState
from scheduler.pricing import RateTier, TokenRates
from scheduler.tracked_request import TrackedRequest
from tests.scheduler.requests_made import request


def remote(name: str, *, price: int = 0, remote_class: str = "eu", **fields: Any) -> Placement:
    tier = RateTier(uncached_input=price, cached_input=price, cache_write=price, output=price)
    return Placement(
        name=name, kind=PlacementKind.REMOTE, model="moe", remote_class=remote_class,
        rates=TokenRates(row_id=name, tiers=(tier,)), **{"max_running": 1, **fields},
    )  # fmt: skip


def remotes(*placements: Placement) -> tuple[Remotes, PlacementAdmission]:
    admission = PlacementAdmission(placements)
    return Remotes([PlacementState(f, serving=True) for f in placements], admission), admission


def tracked(**fields: Any) -> TrackedRequest:
    made = request("r", **{"remote_classes": frozenset({"eu"}), **fields})
    return TrackedRequest(made, ttft_s=made.slo.ttft_s)


def open_names(group: Remotes, one: TrackedRequest, now: float = 0.0) -> list[str]:
    return [state.facts.name for state in group.open(one, now)]


def blocks(group: Remotes, one: TrackedRequest, *, any_ttft: bool = False) -> list[RemoteBlock]:
    quotes = group.quotes(one, np.zeros(len(group.states)), 10.0, 0.0, any_ttft)
    return [made.blocked for made in quotes]


def test_those_that_are_open_serve_and_may_run_the_request() -> None:
    group, _ = remotes(remote("a"), remote("us", remote_class="us"), remote("c", context_tokens=50))
    assert open_names(group, tracked()) == ["a", "c"]
    assert open_names(group, tracked(unsupported_by=frozenset({"a"}))) == ["c"]
    assert open_names(group, tracked(prompt_tokens=50, prompt_tokens_exact=True)) == ["a"]
    group.states[0].serving = False
    assert open_names(group, tracked()) == ["c"]
    one = tracked()
    one.record_failure(group.states[2].facts, Fault.PLACEMENT)
    assert open_names(group, one) == []


def test_a_broken_one_is_not_open() -> None:
    group, admission = remotes(remote("a"))
    admission.record_start("a", request("x"), 0.0)
    end = AttemptEnded(
        request_id="x", attempt=1, outcome=AttemptOutcome.RETRYABLE, fault=Fault.ACCOUNT
    )
    admission.record_end("a", "x", end, 0.0)
    assert open_names(group, tracked(), 1.0) == []
    assert open_names(group, tracked(), 61.0) == ["a"]


def test_a_full_one_and_a_slow_one_are_quoted_and_blocked() -> None:
    group, admission = remotes(remote("full"), remote("slow"), remote("us", remote_class="us"))
    admission.record_start("full", request("x"), 0.0)
    group.states[1].ttft_s = 3.0
    assert blocks(group, tracked()) == [RemoteBlock.GATE, RemoteBlock.TTFT, RemoteBlock.CLOSED]
    assert blocks(group, tracked(), any_ttft=True)[1] is RemoteBlock.FREE


def test_the_cheapest_that_is_free_is_taken() -> None:
    group, _ = remotes(remote("dear", price=2_000_000), remote("cheap", price=1_000_000))
    choice = group.choose(group.quotes(tracked(), np.zeros(2), 10.0, 0.0, False))
    assert choice is not None
    assert choice[0].placement == "cheap"


def test_a_request_spills_while_the_fastest_remote_is_in_time() -> None:
    group, _ = remotes(remote("a"), remote("b"))
    group.states[0].ttft_s, group.states[1].ttft_s = 1.0, 0.5
    assert group.spill_s(tracked(arrival_s=10.0), 10.0) == pytest.approx(12.0 - SPILL_MARGIN * 0.5)
    assert group.spill_s(tracked(remote_classes=frozenset()), 0.0) is None


def test_an_estimated_prompt_always_fits() -> None:
    state = PlacementState(remote("a", context_tokens=50))
    assert fits_context(state, request("r", prompt_tokens=60))
    assert not fits_context(state, request("r", prompt_tokens=50, prompt_tokens_exact=True))
    assert fits_context(state, request("r", prompt_tokens=49, prompt_tokens_exact=True))
