"""The view of `moegate top`, made from one WatchFleet answer.

An unknown value is a hyphen, never a zero.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from gateway.config.money import NANO_USD
from gateway.translation.slo_classes import CLASS_OF
from moegate.cli.views.fitted_table import Column, FittedTable, number
from moegate.v1 import generation_pb2, usage_pb2

KV_BAR_CELLS = 6
UNKNOWN = "-"
STALE_S = 5.0
UNEVEN = 1.2
"""Expert imbalance from which on it is shown."""
_RATES = (
    ("allocated", "allocated_nano_usd_per_mtok"),
    ("floor", "saturated_nano_usd_per_mtok"),
    ("marginal", "marginal_nano_usd_per_mtok"),
)
OUTPUT = "output"
LEGEND = (
    "run: requests from here, others': of other clients, wait: in the engine's queue, batch:"
    " sequences of the next step, D(B): distinct experts per layer that it touches, step: its time;"
    " $/M of output: allocated (all paid time), saturated floor, marginal (one more request now)"
)


def view(fleet: usage_pb2.WatchFleetResponse, target: str) -> RenderableType:
    """Header, pools, replicas, remotes and legend."""
    parts: list[RenderableType] = [_head(fleet, target)]
    if fleet.pools:
        parts.append(_pools(fleet))
    local = [p for p in fleet.placements if p.kind != generation_pb2.PLACEMENT_KIND_REMOTE]
    if local:
        parts.append(_replicas(local))
    remotes = [p for p in fleet.placements if p.kind == generation_pb2.PLACEMENT_KIND_REMOTE]
    if remotes:
        parts.append(_remotes(remotes))
    parts.append(Text(LEGEND, style="dim"))
    return Group(*parts)


def _head(fleet: usage_pb2.WatchFleetResponse, target: str) -> Text:
    at = fleet.at.ToDatetime().strftime("%H:%M:%S")
    head = Text.assemble(("moegate top", "bold"), f"  {target}  {at} UTC   ")
    waiting = ", ".join(
        f"{queue.requests} {CLASS_OF.get(queue.slo_class, '?')} of {queue.model}"
        f" (oldest {queue.oldest_wait.ToMilliseconds() / 1000:.1f} s)"
        for queue in fleet.queues
    )
    head.append(
        f"queue {fleet.queued_requests}" + (f": {waiting}" if waiting else ""),
        "yellow" if fleet.queued_requests else "green",
    )
    return head.append(f"   overflowed {fleet.overflowed_requests}")


def _pools(fleet: usage_pb2.WatchFleetResponse) -> FittedTable:
    rows = FittedTable(
        [
            Column(header="pool"),
            Column(header="model", leaves=3),
            number("groups", leaves=2),
            number("saturation"),
            number("tokens/s", leaves=1),
            *(
                Column(header=f"$/M\n{name}", justify="right", name=f"$/M {name}")
                for name, _ in _RATES
            ),
            Column(header="", wraps=12),
        ]
    )
    for pool in fleet.pools:
        speeds = [
            p.output_tokens_per_second
            for p in fleet.placements
            if p.pool == pool.pool and p.HasField("output_tokens_per_second")
        ]
        output = next((rate for rate in pool.rates if rate.token_kind == OUTPUT), None)
        note = f"turns {pool.turned_away_share:.0%} away" if pool.turned_away_share > 0.0 else ""
        if pool.overflows:
            note = f"{note} overflows".strip()
        if pool.releasable_groups:
            note = f"{note} {pool.releasable_groups} releasable".strip()
        rows.add_row(
            pool.pool,
            pool.model,
            f"{pool.groups_serving}/{pool.groups}",
            f"{pool.saturation:.2f}",
            f"{sum(speeds):.0f}" if speeds else UNKNOWN,
            *(_usd(output, field) for _, field in _RATES),
            note,
            style="yellow" if pool.turned_away_share > 0.0 else "",
        )
    return rows


def _usd(rate: usage_pb2.PoolRate | None, field: str) -> str:
    if rate is None or not rate.HasField(field):
        return UNKNOWN
    return f"{getattr(rate, field) / NANO_USD:.3f}"


def _replicas(placements: list[usage_pb2.PlacementState]) -> FittedTable:
    rows = FittedTable(
        [
            Column(header="replica"),
            number("run"),
            number("others'", leaves=3),
            number("wait", leaves=1),
            number("batch"),
            number("D(B)", leaves=4),
            number("step", leaves=2),
            Column(header="KV cache"),
            number("tokens/s"),
            number("errors", leaves=5),
            Column(header="", wraps=12),
        ]
    )
    for state in placements:
        name = state.placement
        if state.HasField("dp_rank"):
            name = f"{state.group} rank {state.dp_rank}"
        known_step = state.HasField("decode_step")
        rows.add_row(
            name,
            str(state.running_requests),
            str(state.external_sequences),
            str(state.waiting_requests) if state.HasField("waiting_requests") else UNKNOWN,
            str(state.predicted_batch),
            f"{state.distinct_experts:.0f}" if state.HasField("distinct_experts") else UNKNOWN,
            f"{state.decode_step.ToNanoseconds() / 1e6:.1f} ms" if known_step else UNKNOWN,
            _kv(state),
            _speed(state),
            f"{state.error_share:.0%}",
            _condition(state),
            style="" if state.serving else "red",
        )
    return rows


def _remotes(placements: list[usage_pb2.PlacementState]) -> FittedTable:
    rows = FittedTable(
        [
            Column(header="remote"),
            Column(header="model", leaves=1),
            number("run"),
            number("tokens/s"),
            number("errors"),
            Column(header="", wraps=12),
        ]
    )
    for state in placements:
        rows.add_row(
            state.placement,
            state.model,
            str(state.running_requests),
            _speed(state),
            f"{state.error_share:.0%}",
            _condition(state),
            style="cyan" if state.serving else "red",
        )
    return rows


def _kv(state: usage_pb2.PlacementState) -> str:
    if not state.kv_capacity_tokens:
        return f"{state.kv_tokens} tokens"
    share = min(1.0, state.kv_tokens / state.kv_capacity_tokens)
    filled = round(share * KV_BAR_CELLS)
    return "█" * filled + "░" * (KV_BAR_CELLS - filled) + f" {share:4.0%}"


def _speed(state: usage_pb2.PlacementState) -> str:
    known = state.HasField("output_tokens_per_second")
    return f"{state.output_tokens_per_second:.0f}" if known else UNKNOWN


def _condition(state: usage_pb2.PlacementState) -> str:
    if not state.serving:
        return f"out: {state.reason}"
    if state.releasable:
        return "releasable"
    age_s = state.report_age.ToMilliseconds() / 1000
    if age_s > STALE_S:
        return f"report {age_s:.0f} s old"
    unknown = state.gauges_source == usage_pb2.FIGURE_SOURCE_UNKNOWN
    if unknown and state.HasField("report_age"):
        return "gauges stale"
    if state.expert_imbalance >= UNEVEN:
        return f"expert rank {state.busiest_expert_rank}: {state.expert_imbalance:.1f}x the load"
    return ""
