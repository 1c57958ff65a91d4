"""What went to remotes cost, and what own servers would have cost. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.accounting.rollups.pool_bills import PoolBill

MILLION = 1_000_000
TokenCounts = tuple[int, int, int]
"""Uncached input, cached input, output."""
_KINDS = ("uncached_input", "cached_input", "output")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUse:
    """What a model used of one pool, or of remotes (`pool` is empty)."""

    model: str
    pool: str
    requests: int
    tokens: TokenCounts
    remote_nano_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOverflow:
    """A model's use of remotes. `own_nano_usd`: the same tokens at the mean rates of its own pools,
    idle inside; None: none served it in this time, or a rate is unknown."""

    model: str
    requests: int
    tokens: int
    remote_nano_usd: int
    own_nano_usd: int | None


@dataclass(slots=True)
class _Model:
    pools: set[str] = field(default_factory=set)
    requests: int = 0
    tokens: list[int] = field(default_factory=lambda: [0, 0, 0])
    nano_usd: int = 0


def overflow(uses: Iterable[ModelUse], bills: Sequence[PoolBill]) -> list[ModelOverflow]:
    """The use of remotes, by model. The pools of a model are those that served it."""
    models: dict[str, _Model] = defaultdict(_Model)
    for use in uses:
        model = models[use.model]
        if use.pool:
            model.pools.add(use.pool)
            continue
        model.requests += use.requests
        model.nano_usd += use.remote_nano_usd
        model.tokens = [a + b for a, b in zip(model.tokens, use.tokens, strict=True)]
    return [
        ModelOverflow(
            model=name,
            requests=model.requests,
            tokens=sum(model.tokens),
            remote_nano_usd=model.nano_usd,
            own_nano_usd=_own(model, bills),
        )
        for name, model in sorted(models.items())
        if model.requests or model.nano_usd
    ]


def _own(model: _Model, bills: Sequence[PoolBill]) -> int | None:
    """The tokens at the mean of the pools' rates, weighed by what each pool computed."""
    rates = [
        (bill, bill.allocated_nano_usd_per_mtok()) for bill in bills if bill.pool in model.pools
    ]
    total = 0
    for kind, count in zip(_KINDS, model.tokens, strict=True):
        if not count:
            continue
        rate = _mean(kind, rates)
        if rate is None:
            return None
        total += rate * count // MILLION
    return total


def _mean(kind: str, rates: Sequence[tuple[PoolBill, Mapping[str, int]]]) -> int | None:
    counted = {"uncached_input": "uncached_tokens", "cached_input": "cached_tokens"}
    name = counted.get(kind, "output_tokens")
    known = [(bill.amounts[name], found[kind]) for bill, found in rates if kind in found]
    tokens = sum(count for count, _ in known)
    return sum(count * rate for count, rate in known) // tokens if tokens else None
