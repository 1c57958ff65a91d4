"""Costs in dollars: per million tokens by kind, break-even with remotes, number of replicas.

Cost is split by time: what the prefills take of a replica's time is paid by the uncached prompt
tokens, what decoding takes by the output; cached tokens cost no time of their own. Idle time is
shown apart, never hidden in a price: the parts add up to the bill.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.step_time.step_model import FloatArray
from simulation.planner.operating import Lengths, Operating

HOUR_S = 3600.0
MILLION = 1e6


def usd_per_million(usd_per_hour: float, tokens_per_s: float) -> float:
    """The general law: dollars an hour over tokens an hour."""
    return usd_per_hour / (HOUR_S * tokens_per_s) * MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCosts:
    """Dollars per million tokens of one replica in a steady state.

    Attributes:
        uncached_input, output: of busy time only.
        cached_input: of time; the memory that it holds is not priced.
        idle: dollars per hour of idle time.
        all_tokens: the whole bill over all tokens, cached ones included.
        all_output: the whole bill over the output.
    """

    uncached_input: float
    cached_input: float
    output: float
    idle: float
    all_tokens: float
    all_output: float


def token_costs(state: Operating, lengths: Lengths, usd_per_hour: float) -> TokenCosts:
    """Token costs of a replica in `state` that costs `usd_per_hour`."""
    rate = state.requests_per_s
    uncached = rate * (lengths.prompt_tokens - lengths.cached_tokens)
    output = rate * lengths.output_tokens
    decode_share = state.busy_share - state.prefill_share
    return TokenCosts(
        uncached_input=usd_per_million(usd_per_hour * state.prefill_share, uncached)
        if uncached > 0
        else 0.0,
        cached_input=0.0,
        output=usd_per_million(usd_per_hour * decode_share, output),
        idle=usd_per_hour * (1.0 - state.busy_share),
        all_tokens=usd_per_million(
            usd_per_hour, rate * (lengths.prompt_tokens + lengths.output_tokens)
        ),
        all_output=usd_per_million(usd_per_hour, output),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePrice:
    """List price of a remote API, dollars per million tokens."""

    name: str
    input: float
    cached_input: float
    output: float

    def request_usd(self, lengths: Lengths) -> float:
        """Cost of one request of mean lengths; a remote may have none of its prefix cached."""
        cached = lengths.cached_tokens
        return (
            (lengths.prompt_tokens - cached) * self.input
            + cached * self.cached_input
            + lengths.output_tokens * self.output
        ) / MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """Self-hosted replicas compared with one remote.

    Attributes:
        remote_usd: cost per request at the remote.
        own_usd: cost per request of a self-hosted replica at its capacity.
        utilisation: share of its capacity above which a self-hosted replica is cheaper;
            above 1: never.
        requests_per_s: the same as a rate.
    """

    remote: str
    remote_usd: float
    own_usd: float
    utilisation: float
    requests_per_s: float


def break_even(
    remote: RemotePrice, lengths: Lengths, usd_per_hour: float, capacity_per_s: float
) -> BreakEven:
    """Computes the break-even. A replica's cost does not depend on its utilisation."""
    remote_usd = remote.request_usd(lengths)
    own_usd = usd_per_hour / HOUR_S / capacity_per_s
    share = own_usd / remote_usd if remote_usd > 0 else math.inf
    return BreakEven(
        remote=remote.name,
        remote_usd=remote_usd,
        own_usd=own_usd,
        utilisation=share,
        requests_per_s=share * capacity_per_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """A number of self-hosted replicas; requests above their capacity go to a remote.

    Attributes:
        overflow_share: share of the requests that overflow.
        exceeded_share: share of the windows in which demand exceeds capacity.
        utilisation: share of the self-hosted capacity in use.
        usd_per_hour: self-hosted and remote cost together.
    """

    replicas: int
    overflow_share: float
    exceeded_share: float
    utilisation: float
    own_usd_per_hour: float
    remote_usd_per_hour: float

    @property
    def usd_per_hour(self) -> float:
        """Self-hosted and remote cost together."""
        return self.own_usd_per_hour + self.remote_usd_per_hour


def owned(
    replicas: int,
    rates: FloatArray,
    capacity_per_s: float,
    replica_usd_per_hour: float,
    remote_request_usd: float,
) -> Owned:
    """`rates`: demand per window, requests per second, shape (windows,)."""
    own_per_s = replicas * capacity_per_s
    beyond = np.maximum(0.0, rates - own_per_s)
    mean = float(rates.mean())
    served = mean - float(beyond.mean())
    return Owned(
        replicas=replicas,
        overflow_share=float(beyond.mean()) / mean,
        exceeded_share=float((rates > own_per_s).mean()),
        utilisation=served / own_per_s if own_per_s else 0.0,
        own_usd_per_hour=replicas * replica_usd_per_hour,
        remote_usd_per_hour=float(beyond.mean()) * HOUR_S * remote_request_usd,
    )


def cheapest(choices: Sequence[Owned]) -> Owned:
    """The newsvendor optimum: demand exceeds the last replica just often enough to pay for it.

    With r a self-hosted replica's cost per request at capacity and p the remote's, the best C has
    P(D > C) = r / p. The cost is convex in C, so the cheapest count is that C, rounded.
    """
    return min(choices, key=lambda choice: choice.usd_per_hour)
