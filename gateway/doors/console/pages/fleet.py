"""The fleet now: pools, servers, remotes, queues, and why requests overflow. For operators."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from aiohttp import web

from gateway.doors.console.routes import OPERATORS, Live, Page
from gateway.doors.console.sparklines import Sparkline, sparkline
from gateway.doors.console.visitor import Visitor
from gateway.doors.console.visits import Visit
from moegate.v1 import generation_pb2, usage_pb2

_CLASSES = {
    generation_pb2.SLO_CLASS_INTERACTIVE: "interactive",
    generation_pb2.SLO_CLASS_STANDARD: "standard",
    generation_pb2.SLO_CLASS_BATCH: "batch",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What steps together: a replica with its ranks, or one placement.

    Attributes:
        kv_share: share of the KV cache that is taken; None: the capacity is unknown.
        tokens_per_s: None: of no rank is it known.
    """

    name: str
    ranks: Sequence[usage_pb2.PlacementState]
    serving: bool
    reason: str
    running: int
    waiting: int | None
    kv_share: float | None
    tokens_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool of own servers, with its groups and what has been. `why`: why requests overflow or
    would; empty: they need not."""

    state: usage_pb2.PoolState
    groups: Sequence[Group]
    why: str
    running: Sparkline
    wait: Sparkline


async def _fleet(visit: Visit) -> dict[str, object]:
    state = await visit.services.fleet.state(visit.visitor)
    now, history = state.now, state.history
    own = [p for p in now.placements if p.kind == generation_pb2.PLACEMENT_KIND_LOCAL]
    pools = [_pool(pool, own, history) for pool in now.pools]
    # Pools of one model share its queue.
    waits = {pool.model: pool.predicted_wait_share for pool in now.pools}
    remotes = [p for p in now.placements if p.kind != generation_pb2.PLACEMENT_KIND_LOCAL]
    return {
        "now": now,
        "pools": pools,
        "remotes": remotes,
        "queues": [
            (queue, _CLASSES.get(queue.slo_class, ""), waits.get(queue.model))
            for queue in now.queues
        ],
        "overflowed": now.overflowed_requests - history[0].overflowed_requests,
        "since_s": now.at.seconds - history[0].at.seconds,
        "serving": sum(pool.groups_serving for pool in now.pools),
        "groups": sum(pool.groups for pool in now.pools),
        "running": sum(p.running_requests for p in now.placements),
    }


def _pool(
    pool: usage_pb2.PoolState,
    own: Sequence[usage_pb2.PlacementState],
    history: Sequence[usage_pb2.WatchFleetResponse],
) -> Pool:
    ranks: dict[str, list[usage_pb2.PlacementState]] = {}
    for placement in own:
        if placement.pool == pool.pool:
            ranks.setdefault(placement.group, []).append(placement)
    past = [p for state in history for p in state.pools if p.pool == pool.pool]
    running = [
        sum(p.running_requests for p in state.placements if p.pool == pool.pool)
        for state in history
    ]
    return Pool(
        state=pool,
        groups=[_group(name, members) for name, members in sorted(ranks.items())],
        why=_why(pool),
        running=sparkline(running),
        wait=sparkline([p.predicted_wait_share for p in past], least_top=1.0),
    )


def _group(name: str, ranks: Sequence[usage_pb2.PlacementState]) -> Group:
    waiting = [p.waiting_requests for p in ranks if p.HasField("waiting_requests")]
    rates = [p.output_tokens_per_second for p in ranks if p.HasField("output_tokens_per_second")]
    capacity = sum(p.kv_capacity_tokens for p in ranks)
    is_known = all(p.HasField("kv_capacity_tokens") for p in ranks) and capacity > 0
    return Group(
        name=name,
        ranks=ranks,
        serving=any(p.serving for p in ranks),
        reason="; ".join(dict.fromkeys(p.reason for p in ranks if p.reason)),
        running=sum(p.running_requests for p in ranks),
        waiting=sum(waiting) if waiting else None,
        kv_share=min(1.0, sum(p.kv_tokens for p in ranks) / capacity) if is_known else None,
        tokens_per_s=sum(rates) if rates else None,
    )


def _why(pool: usage_pb2.PoolState) -> str:
    share = pool.predicted_wait_share
    if not pool.groups_serving:
        return "No group of this pool is in service."
    if pool.saturated:
        return (
            f"Saturated: a new request would wait {share:.1f} times its promised time to first "
            "token. Requests that a remote may see wait a part of that time here, then go there."
        )
    if pool.overflows:
        return "In the last minute requests went to a remote because own servers were full."
    return ""


def _operators(_: Visitor) -> Hashable:
    """All operators see the same fleet."""
    return "operators"


async def _page(visit: Visit) -> web.Response:
    return await visit.page("fleet.html")


FLEET_PAGES = (
    Page(
        path="/fleet",
        handle=_page,
        roles=OPERATORS,
        name="Fleet",
        group="Operations",
        live=Live(template="fleet_live.html", values=_fleet, scope=_operators),
    ),
)
