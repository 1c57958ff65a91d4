"""What the scheduler shows of itself: frozen figures for WatchFleet, metrics and `moegate top`.

A snapshot is taken on demand and costs one pass over the placements; nothing in it feeds back into
decisions. None stands for what is not known: no report yet, a remote's engine, an unknown capacity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.types import PlacementKind, SloClass


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSnapshot:
    """One placement now.

    Attributes:
        group: what steps together: the replica, also where its DP ranks are placements.
        dp_rank: the pinned rank; None where the engine spreads over its ranks.
        reason: why it serves or does not.
        running_requests, running_sequences: the own ones; a request has a sequence per choice.
        waiting_in_engine: as the newest report says.
        external_sequences: sent by others, as fresh reports show.
        kv_tokens: resident KV tokens, predicted from the own requests; `kv_reserved_tokens`: with
            the output that they may still need.
        pending_prefill_s: prefill that is sent and has not yet brought a first token.
        predicted_batch: sequences that the group's next step decodes, external ones included.
        distinct_experts: experts per layer that this step touches, D(B).
        decode_step_s: its predicted time, T(B).
        report_age_s: age of the newest engine report; `report_stale`: none, or too old to use.
        idle_s: time since anything ran there; 0 while something runs.
        releasable: emptied on purpose, and empty for the pool's release delay.
        ttft_s: running mean of the times to first token seen, engine time only.
        error_share: running mean of the attempts that failed there, 0 to 1.
    """

    name: str
    pool: str
    model: str
    kind: PlacementKind
    group: str
    dp_rank: int | None
    serving: bool
    reason: str
    running_requests: int
    running_sequences: int
    waiting_in_engine: int | None
    external_sequences: int
    kv_tokens: int
    kv_reserved_tokens: int
    kv_capacity_tokens: int | None
    pending_prefill_s: float
    predicted_batch: int
    distinct_experts: float | None
    decode_step_s: float | None
    report_age_s: float | None
    report_stale: bool
    idle_s: float
    releasable: bool
    ttft_s: float | None
    error_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """The own placements of one pool.

    Attributes:
        saturation: predicted wait of a new request over the time to first token it is promised.
        saturated: the same with hysteresis: overflow starts at 1.0 and ends at 0.6.
        releasable_groups: groups that an autoscaler may take.
    """

    pool: str
    model: str
    groups: int
    groups_serving: int
    releasable_groups: int
    saturation: float
    saturated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSnapshot:
    """The queue of one model. `requests` and `oldest_wait_s` are by class."""

    model: str
    requests: Mapping[SloClass, int]
    oldest_wait_s: Mapping[SloClass, float]
    size_bytes: int
    predicted_drain_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSnapshot:
    """The whole at one time."""

    at_s: float
    placements: tuple[PlacementSnapshot, ...]
    pools: tuple[PoolSnapshot, ...]
    queues: tuple[QueueSnapshot, ...]
