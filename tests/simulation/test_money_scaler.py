"""A short day by money: what holds at any length; the bill of a whole one is a benchmark's."""

from __future__ import annotations

from benchmarks.day import NEWSVENDOR_LOAD, QWEN_CAPACITY_PER_S, Day, day_arrivals
from benchmarks.lab.fleets import FLEETS
from benchmarks.money_scaler import Scaling, play
from scheduler.overflow.replica_count import ReplicaLimits

DAY = Day(replicas=1, day_s=400.0, capacity_per_s=QWEN_CAPACITY_PER_S, load=NEWSVENDOR_LOAD)
LIMITS = ReplicaLimits(least=1, most=2, up_window_s=30.0, down_window_s=60.0)


def test_servers_come_for_the_peak_and_go_after_it() -> None:
    arrivals = list(day_arrivals(DAY, FLEETS["qwen"]))
    found = play(DAY, arrivals, Scaling(limits=LIMITS, start_s=20.0))
    fixed = play(DAY, arrivals, Scaling(limits=LIMITS, start_s=20.0, fixed=1))
    assert 2 <= found.changes <= 4, "one more, and one fewer"
    assert 1.0 < found.mean_servers < 2.0
    assert found.remote_usd < fixed.remote_usd
    assert found.slo_met >= 0.98
    assert fixed.mean_servers == 1.0
