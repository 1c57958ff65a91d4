"""What a quote caches or checks again for one placement alone, against the whole computation."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.contract import PlacementKind, Progress, Request, ServingChanged, Slo, SloClass
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.placement.placement import choose
from scheduler.placement.quoting import quote_fleet
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100
from scheduler.tracked_request import TrackedRequest

COUNT = 6


def request(name: str, now: float, prompt_tokens: int) -> Request:
    return Request(
        request_id=name, tenant="t", model="moe", arrival_s=now, deadline_s=now + 600.0,
        slo=Slo(slo_class=SloClass.INTERACTIVE, ttft_s=2.0, tpot_s=0.05, max_queue_s=2.0),
        priority=0, prompt_tokens=prompt_tokens, max_output_tokens=4096, choices=1,
        size_bytes=4000, remote_classes=frozenset(),
    )  # fmt: skip


@pytest.mark.parametrize("group", ["", "together"])
def test_a_recheck_of_one_interference_curve_is_the_whole_quote(group: str) -> None:
    core = Scheduler(
        (
            Placement(
                name=f"p/{i}", pool="p", kind=PlacementKind.SELF_HOSTED, model="moe", group=group,
                max_running=256, kv_capacity_tokens=600_000, step_model=QWEN3_30B_H100,
            )
            for i in range(COUNT)
        ),
        SchedulerLimits(queue=QueueLimits(requests=4096, size_bytes=1 << 30), attempts=1),
    )  # fmt: skip
    for i in range(COUNT):
        core.handle(ServingChanged(placement=f"p/{i}", serving=True, reason=""), 0.0)
    model_state = core._model_states["moe"]
    fleet, now = model_state.fleet, 0.0
    seen: set[int] = set()
    for number in range(80):
        now += 0.01
        tracked = TrackedRequest(request(f"q{number}", now, 500 + 97 * number))
        model_state.set_expectations(tracked, count=False)
        ask = model_state.query(tracked, now)
        before = fleet.curve_at_s.copy()
        quote = choose(fleet, ask, model_state.policy, now, number)[1].kept()
        whole = quote_fleet(fleet, ask, model_state.policy, now)
        assert (quote.blocked == whole.blocked).all()
        np.testing.assert_allclose(quote.violations_expected, whole.violations_expected, atol=1e-12)
        by_model = fleet.models.decode_step_s(fleet.batch + 1, np.zeros(COUNT))
        np.testing.assert_allclose(fleet.next_step_s, by_model, rtol=1e-12)
        if (fleet.curve_at_s != before).any():
            seen.update(quote.blocked.tolist())
        core.submit(request(f"r{number}", now, 500 + 97 * number), now)
        for name in [n for s in fleet.states for n in s.residents]:
            core.handle(Progress(request_id=name, attempt=1, output_tokens=1 + number // 5), now)
    assert len(seen) > 1, "curves were made anew both where a place was free and where not"
