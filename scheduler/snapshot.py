"""Frozen figures of the scheduler for WatchFleet, metrics and `moegate top`.

A snapshot is taken on demand and costs one pass over the placements. Decisions do not read it. None
means an unknown figure: no report yet, the engine of a remote, or an unknown capacity.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace

from scheduler.contract import PlacementKind, SloClass
from scheduler.model.model_state import URGENT, ModelState
from scheduler.overflow.saturation import shown_share
from scheduler.placement.groups import Group
from scheduler.placement_state import PlacementState
from scheduler.provenance import Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSnapshot:
    """One placement at the time of the snapshot.

    Attributes:
        group: the replica. Its data-parallel ranks run the same engine steps.
        dp_rank: the pinned rank; None: the engine distributes requests over its ranks.
        reason: why the placement is in service or not.
        running_requests, running_sequences: started by the scheduler; one sequence per choice.
        waiting_in_engine: from the newest report.
        external_sequences: started by other clients, from fresh reports.
        kv_tokens: predicted resident KV tokens of the scheduler's requests.
        kv_reserved_tokens: `kv_tokens` plus the output still expected.
        kv_capacity_source, context_source, max_running_source, gauges_source: where these figures
            come from; the gauges are the running and the waiting requests of the engine's report.
        context_tokens: most tokens of one sequence.
        max_running: most sequences at once.
        pending_prefill_s: predicted seconds of the unfinished prefills.
        predicted_batch: sequences in the group's next decode step, including external ones.
        distinct_experts: experts per layer activated in this step, D(B).
        distinct_experts_source: whether D follows from steps that the engine told, or is uniform.
        expert_imbalance: choices of experts that fall on the busiest expert-parallel rank over
            those of a mean rank; `busiest_expert_rank`: that rank.
        decode_step_s: predicted seconds of this step, T(B).
        report_age_s: age of the newest engine report. `report_stale`: no report, or too old to use.
        idle_s: seconds since any sequence ran there; 0 while one runs.
        releasable: emptied on purpose, and empty for the pool's release delay.
        ttft_s: running mean of the observed times to first token, engine time only.
        error_share: running mean of the share of failed attempts, 0 to 1.
        adapters: LoRA adapters that the server has loaded. active_adapters: those with requests in
            the engine.
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
    kv_capacity_source: Provenance
    context_tokens: int | None
    context_source: Provenance
    max_running: int
    max_running_source: Provenance
    gauges_source: Provenance
    pending_prefill_s: float
    predicted_batch: int
    distinct_experts: float | None
    distinct_experts_source: Provenance
    expert_imbalance: float | None
    busiest_expert_rank: int | None
    decode_step_s: float | None
    report_age_s: float | None
    report_stale: bool
    idle_s: float
    releasable: bool
    ttft_s: float | None
    error_share: float
    adapters: tuple[str, ...] = ()
    active_adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """The self-hosted placements of one pool.

    Attributes:
        saturation: waiting time divided by the promised time to first token, averaged by work. A
            new request contributes its smoothed prediction. A queued request contributes its
            waiting time so far; a late one also its predicted remaining wait. Pools of one model
            share a queue and therefore this figure.
        saturated: flag that enables overflow. Set when a new request's share exceeds 1.0, cleared
            below 0.6. Requests that are already late do not set it.
        predicted_wait_share: predicted wait of a new request over the promised time to first token.
        turned_away_share: share of the arrivals of the last minute that own servers did not take in
            time, see `TurnedAway`. overflows: whether one of them went to a remote for that.
        releasable_groups: groups that an autoscaler may remove.
    """

    pool: str
    model: str
    groups: int
    groups_serving: int
    releasable_groups: int
    saturation: float
    saturated: bool
    predicted_wait_share: float
    turned_away_share: float
    overflows: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSnapshot:
    """The queue of one model. `requests` and `oldest_wait_s` are keyed by service class."""

    model: str
    requests: Mapping[SloClass, int]
    oldest_wait_s: Mapping[SloClass, float]
    size_bytes: int
    predicted_drain_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSnapshot:
    """Figures of all placements, pools and queues at one time, monotonic seconds."""

    at_s: float
    placements: tuple[PlacementSnapshot, ...]
    pools: tuple[PoolSnapshot, ...]
    queues: tuple[QueueSnapshot, ...]


def without_free_places(
    snapshot: SchedulerSnapshot, addresses: Container[str]
) -> SchedulerSnapshot:
    """Returns the snapshot without idle placements that have no address. Such placements wait for
    DNS to name a replica."""
    placements = tuple(p for p in snapshot.placements if p.name in addresses or p.running_requests)
    if len(placements) == len(snapshot.placements):
        return snapshot
    pools = tuple(
        replace(pool, groups=len({p.group for p in placements if p.pool == pool.pool}))
        for pool in snapshot.pools
    )
    return replace(snapshot, placements=placements, pools=pools)


def take_snapshot(
    states: Iterable[PlacementState],
    model_states: Mapping[str, ModelState],
    bases: Mapping[str, str],
    now: float,
) -> SchedulerSnapshot:
    """Computes the figures of every placement (in the order of `states`), pool and queue. `bases`:
    base model of each adapter."""
    placements = tuple(
        _placement(state, model_states[bases.get(state.facts.model, state.facts.model)], now)
        for state in states
    )
    shares = {model: _saturation(model_state, now) for model, model_state in model_states.items()}
    pools: dict[str, list[PlacementSnapshot]] = {}
    for placement in placements:
        if placement.kind is PlacementKind.SELF_HOSTED:
            pools.setdefault(placement.pool, []).append(placement)
    return SchedulerSnapshot(
        at_s=now,
        placements=placements,
        pools=tuple(
            _pool(name, own, shares[own[0].model], model_states[own[0].model], now)
            for name, own in pools.items()
        ),
        queues=tuple(
            _queue(model, model_state, now) for model, model_state in model_states.items()
        ),
    )


def _placement(state: PlacementState, model_state: ModelState, now: float) -> PlacementSnapshot:
    facts, report = state.facts, state.report
    index = model_state.fleet.index.get(facts.name)
    group = None if index is None else model_state.fleet.groups[index]
    batch = state.sequences if group is None else group.batch
    idle_since_s = now if state.idle_since_s is None else state.idle_since_s
    return PlacementSnapshot(
        name=facts.name,
        pool=facts.pool,
        model=facts.model,
        kind=facts.kind,
        group=facts.group or facts.name,
        dp_rank=facts.dp_rank,
        serving=state.serving,
        reason=state.reason,
        running_requests=len(state.residents),
        running_sequences=state.sequences,
        waiting_in_engine=None if report is None else report.waiting,
        external_sequences=state.external(now),
        kv_tokens=state.kv_tokens,
        kv_reserved_tokens=state.kv_reserved_tokens,
        kv_capacity_tokens=state.kv_capacity_tokens,
        kv_capacity_source=state.kv_capacity_source,
        context_tokens=state.context_tokens,
        context_source=state.context_source,
        max_running=state.max_running,
        max_running_source=state.max_running_source,
        gauges_source=state.gauges_source(now),
        pending_prefill_s=max(0.0, state.prefill_end_s - now) if state.pending else 0.0,
        predicted_batch=batch,
        distinct_experts=None if group is None else group.model.distinct_experts(batch),
        distinct_experts_source=_experts_source(group),
        expert_imbalance=None if group is None else group.expert_loads.imbalance,
        busiest_expert_rank=None if group is None else group.expert_loads.busiest_rank,
        decode_step_s=None
        if group is None
        else group.model.decode_step_s(batch, group.kv_paced_tokens),
        report_age_s=None if report is None else max(0.0, now - report.at_s),
        report_stale=state.stale(now),
        idle_s=now - idle_since_s,
        releasable=index is not None and model_state.fleet.releasable(index, now),
        ttft_s=state.ttft_s,
        error_share=state.error_share,
        adapters=tuple(sorted(state.adapters.loaded)),
        active_adapters=tuple(sorted(state.adapters.running(external=state.external(now) > 0))),
    )


def _experts_source(group: Group | None) -> Provenance:
    if group is None:
        return Provenance.UNKNOWN
    return Provenance.ASSUMED if group.model.law is None else Provenance.DERIVED


def _pool(
    name: str,
    own: list[PlacementSnapshot],
    saturation: float,
    model_state: ModelState,
    now: float,
) -> PoolSnapshot:
    return PoolSnapshot(
        pool=name,
        model=own[0].model,
        groups=len({placement.group for placement in own}),
        groups_serving=len({placement.group for placement in own if placement.serving}),
        releasable_groups=len({placement.group for placement in own if placement.releasable}),
        saturation=saturation,
        saturated=model_state.saturation.marked,
        predicted_wait_share=model_state.saturation.value,
        turned_away_share=model_state.turned_away.share(now),
        overflows=model_state.turned_away.overflows(now),
    )


def _saturation(model_state: ModelState, now: float) -> float:
    drain_s = model_state.drain_s()  # late requests wait behind those in time
    waiting = []
    for queued in model_state.queue:
        if queued.self_hosted and queued.request.slo.slo_class in URGENT:
            wait_s = now - queued.request.arrival_s + (drain_s if queued.late else 0.0)
            waiting.append((queued.work_s, wait_s / queued.promised_s))
    return shown_share(model_state.saturation.value, waiting)


def _queue(model: str, model_state: ModelState, now: float) -> QueueSnapshot:
    oldest_s = dict.fromkeys(SloClass, now)
    for queued in model_state.queue:
        name = queued.request.slo.slo_class
        oldest_s[name] = min(oldest_s[name], queued.request.arrival_s)
    return QueueSnapshot(
        model=model,
        requests={name: model_state.queue.waiting(name) for name in SloClass},
        oldest_wait_s={name: now - arrival_s for name, arrival_s in oldest_s.items()},
        size_bytes=model_state.queue.size_bytes,
        predicted_drain_s=model_state.drain_s(),
    )
