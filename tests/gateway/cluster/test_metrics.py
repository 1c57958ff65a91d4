"""A member shows the gauges of its process, and those of the fleet only while it leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from prometheus_client import CollectorRegistry, generate_latest

from gateway.cluster.leading import LeaderSide
from gateway.cluster.metrics import MemberMetrics
from gateway.server import running_gateway
from gateway.telemetry.scheduler_gauges import Standing
from tests import serving


class Busy:
    def share_now(self) -> float:
        return 0.25


@dataclass
class Side:
    """What the metrics need of a leader."""

    parts: Any
    accounting: Any
    lane: Any


class NoJobs:
    def load(self) -> tuple[()]:
        return ()


def page(metrics: MemberMetrics) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    return generate_latest(registry).decode()


async def test_the_fleet_is_shown_while_it_leads(tmp_path: Any) -> None:
    standing = Standing(leads=False, term=7, lease_age_s=None, takeovers=2, unkept_keys=3)
    metrics = MemberMetrics(Busy(), lambda: 3, lambda: standing)
    config = serving.config(pools=[serving.pool(["http://127.0.0.1:9"])])
    async with running_gateway(config, tmp_path) as gateway:
        side = cast(LeaderSide, Side(gateway.parts, gateway.accounting, NoJobs()))
        for _ in range(2):
            await metrics.refresh()
            shown = page(metrics)
            assert "moegate_requests_in_flight 3.0" in shown
            assert "moegate_loop_busy_ratio 0.25" in shown or "moegate_loop_busy 0.25" in shown
            assert "moegate_pool_groups" not in shown
            assert "ledger" not in shown
            assert "moegate_scheduler_leads 0.0" in shown
            assert "moegate_scheduler_term 7.0" in shown
            assert "moegate_scheduler_takeovers_total 2.0" in shown
            assert "moegate_scheduler_keys_unkept_total 3.0" in shown
            assert "\nmoegate_scheduler_lease_age_seconds " not in shown
            async with metrics.shown(side):
                await metrics.refresh()
                shown = page(metrics)
                assert shown.count("\nmoegate_requests_in_flight ") == 1
                assert "moegate_requests_in_flight 3.0" in shown
                assert "ledger" in shown
                assert shown.count("\nmoegate_scheduler_leads ") == 1
