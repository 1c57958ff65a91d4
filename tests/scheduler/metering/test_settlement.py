"""What an attempt is metered and charged, by where it ran and how it ended."""

from __future__ import annotations

import pytest

from scheduler.contract import AttemptOutcome, PlacementKind, Start, Usage
from scheduler.metering.rate_snapshot import RateSnapshot, rate_snapshot
from scheduler.metering.settlement import CostBasis, Metered, SettledAttempt, TokenKind, settle
from scheduler.placement_state import Placement
from scheduler.pricing import RateTier, TokenRates
from tests.scheduler.requests_made import request

USAGE = Usage(prompt_tokens=1000, cached_tokens=600, completion_tokens=50)


def rates(row_id: str, million: int) -> TokenRates:
    """Input at `million` nano-USD a million tokens, cached a tenth of it, output twice."""
    return TokenRates(
        row_id=row_id,
        tiers=(
            RateTier(
                uncached_input=million,
                cached_input=million // 10,
                cache_write=million,
                output=2 * million,
            ),
        ),
    )


def placement(name: str, row: TokenRates | None, remote_class: str = "") -> Placement:
    kind = PlacementKind.REMOTE if remote_class else PlacementKind.SELF_HOSTED
    return Placement(
        name=name, kind=kind, model="moe", max_running=4, remote_class=remote_class, rates=row
    )


RATES = rate_snapshot(
    [
        placement("own/a", rates("showback", 1_000_000_000)),
        placement("far", rates("far-row", 2_000_000_000), "eu"),
        placement("cheap", rates("cheap-row", 500_000_000), "anywhere"),
        placement("unpriced", None, "eu"),
    ]
)


def settled(
    place: str = "own/a",
    *,
    rate_snapshot: RateSnapshot = RATES,
    outcome: AttemptOutcome = AttemptOutcome.OK,
    committed: bool = False,
    usage: Usage | None = USAGE,
    metered: Metered | None = None,
    remote_classes: frozenset[str] = frozenset({"eu"}),
) -> SettledAttempt:
    kind = PlacementKind.SELF_HOSTED if place == "own/a" else PlacementKind.REMOTE
    return settle(
        request("r", remote_classes=remote_classes),
        Start(
            request_id="r",
            attempt=1,
            placement=place,
            kind=kind,
            reason="",
            predicted_ttft_s=None,
            predicted_tpot_s=None,
        ),
        rate_snapshot=rate_snapshot,
        pool="own",
        outcome=outcome,
        committed=committed,
        usage=usage,
        metered=metered,
        started_unix_s=1.0,
        ended_unix_s=2.0,
    )


def test_own_servers_are_metered_and_charged_apart() -> None:
    attempt = settled(metered=Metered(uncached_input=70, cached_input=3, output=500))
    assert attempt.metered_nano_usd == 573
    assert attempt.basis is CostBasis.METERED
    assert [(part.kind, part.tokens, part.nano_usd) for part in attempt.parts] == [
        (TokenKind.UNCACHED_INPUT, 400, 70),
        (TokenKind.CACHED_INPUT, 600, 3),
        (TokenKind.OUTPUT, 50, 500),
    ]
    assert attempt.charged_nano_usd == 400_000 + 60_000 + 100_000
    assert attempt.price_row_id == "showback"
    assert attempt.cheapest_remote_nano_usd == 2 * attempt.charged_nano_usd
    assert attempt.final


def test_a_remote_costs_its_list_price() -> None:
    attempt = settled("far")
    assert attempt.metered_nano_usd == attempt.charged_nano_usd == 1_120_000
    assert sum(part.nano_usd for part in attempt.parts) == 1_120_000
    assert attempt.basis is CostBasis.LIST_PRICE
    assert attempt.price_row_id == "far-row"


def test_the_cheapest_remote_is_one_that_the_request_allows() -> None:
    both = frozenset({"eu", "anywhere"})
    assert settled(remote_classes=both).cheapest_remote_nano_usd == 280_000
    assert settled(remote_classes=frozenset()).cheapest_remote_nano_usd is None


def test_an_estimate_says_so() -> None:
    guessed = Usage(prompt_tokens=1000, completion_tokens=50, estimated=True)
    assert settled("far", usage=guessed).basis is CostBasis.ESTIMATED


def test_an_unknown_price_is_unknown_and_never_zero() -> None:
    attempt = settled("unpriced")
    assert (attempt.metered_nano_usd, attempt.charged_nano_usd, attempt.basis) == (None, None, None)
    own = settled(rate_snapshot=RateSnapshot())
    assert (own.metered_nano_usd, own.charged_nano_usd, own.price_row_id) == (None, None, "")


def test_a_failed_attempt_is_nobodys_to_pay() -> None:
    waste = Metered(uncached_input=70, cached_input=0, output=0)
    attempt = settled(outcome=AttemptOutcome.RETRYABLE, usage=None, metered=waste)
    assert (attempt.metered_nano_usd, attempt.charged_nano_usd) == (70, 0)
    assert not attempt.final
    refused = settled("far", outcome=AttemptOutcome.RETRYABLE, usage=None)
    assert (refused.metered_nano_usd, refused.charged_nano_usd) == (0, 0)


@pytest.mark.parametrize(
    ("outcome", "committed", "charged"),
    [
        (AttemptOutcome.CANCELLED, False, 560_000),
        (AttemptOutcome.CANCELLED, True, 560_000),
        (AttemptOutcome.FAILED, True, 560_000),
        (AttemptOutcome.FAILED, False, 0),
    ],
)
def test_what_ran_for_the_client_is_charged(
    outcome: AttemptOutcome, committed: bool, charged: int
) -> None:
    assert settled(outcome=outcome, committed=committed).charged_nano_usd == charged
