"""A meter of a group at a price, and reports for it."""

from __future__ import annotations

from scheduler.contract import EngineReport
from scheduler.metering.cost import GroupMeter
from scheduler.metering.runs import NodeShare
from scheduler.metering.totals import RateSegment
from scheduler.step_time.step_model import QWEN3_30B_H100

RATE = 2_500_000_000
PLAN = (RateSegment(start_ns=0, nano_usd_per_hour=RATE),)
MS = 1_000_000


def meter(plan: tuple[RateSegment, ...] = PLAN, nodes: NodeShare | None = None) -> GroupMeter:
    group = GroupMeter(QWEN3_30B_H100, plan, 0, max_running=64, nodes=nodes)
    group.set_serving(True, 0)
    return group


def report(at_ns: int, running: int, waiting: int = 0, prompt_tokens: int = 0) -> EngineReport:
    return EngineReport(
        placement="own/a",
        at_s=at_ns / 1e9,
        running=running,
        waiting=waiting,
        kv_usage=0.3,
        prompt_tokens_total=prompt_tokens,
        generation_tokens_total=0,
        kv_capacity_tokens=100_000,
    )


def take(group: GroupMeter, what: EngineReport, now_ns: int) -> None:
    group.report(what, now_ns, now_ns)
