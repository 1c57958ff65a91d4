"""What `moegate cost` makes of the figures."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration

from moegate.cli.views.cost import break_even_tokens_per_s, remarks
from moegate.v1 import usage_pb2


def cost(unpriced_s: int = 0) -> usage_pb2.GetPoolCostResponse:
    """An hour at 3.6 dollars, and a remote that asks half a dollar per million tokens."""
    remote = usage_pb2.PoolRemote(remote="far", nano_usd_per_mtok=500_000_000)
    return usage_pb2.GetPoolCostResponse(
        bill_nano_usd=3_600_000_000,
        covered=Duration(seconds=3600),
        unpriced=Duration(seconds=unpriced_s),
        remotes=[remote],
    )


def test_the_load_that_pays_for_the_pool() -> None:
    assert break_even_tokens_per_s(cost()) == pytest.approx(2000.0)
    [line] = remarks(cost())
    assert line.startswith("break-even with the cheapest remote ($0.5 per million): 2,000 tokens/s")


def test_it_is_not_known_where_a_part_of_the_bill_is_not() -> None:
    half = cost(unpriced_s=1800)
    assert break_even_tokens_per_s(half) is None
    assert remarks(half) == ["0.50 replica-hours have no known price: they are in no sum"]
