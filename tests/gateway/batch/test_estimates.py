"""When a job will end, what it will cost, and whether it is late."""

from __future__ import annotations

import math

from msgspec import structs

from gateway.batch.estimates import estimated_end_us, estimated_nano_usd, is_late, needed_per_s
from gateway.batch.jobs import JobState
from tests.gateway.batch.test_running_job import running

S = 1_000_000
JOB = structs.replace(running().job, created_unix_us=0, deadline_unix_us=1000 * S)


def test_the_end_by_the_pace_so_far() -> None:
    assert estimated_end_us(JOB, 10 * S) is None  # nothing has ended
    job = structs.replace(JOB, succeeded=15, failed=5)
    assert estimated_end_us(job, 100 * S) == 500 * S
    assert estimated_end_us(job, 900 * S) == 1000 * S  # its deadline ends it
    assert estimated_end_us(job, S // 2) is None  # no pace yet
    ended = structs.replace(job, state=JobState.CANCELLED)
    assert estimated_end_us(ended, 100 * S) is None


def test_the_cost_by_the_mean_so_far() -> None:
    assert estimated_nano_usd(JOB) is None
    job = structs.replace(JOB, succeeded=20, charged_nano_usd=300)
    assert estimated_nano_usd(job) == 1500
    assert estimated_nano_usd(structs.replace(job, unpriced=1)) is None


def test_a_job_is_late_by_its_pace_or_by_the_time_that_is_left() -> None:
    job = structs.replace(JOB, succeeded=50)
    assert not is_late(job, 400 * S)  # 400 s more of 600 s
    assert is_late(job, 480 * S)  # 480 s more of 520 s: too near
    assert is_late(structs.replace(JOB, succeeded=10), 200 * S)
    assert not is_late(JOB, 800 * S)  # nothing has ended: no pace
    assert is_late(JOB, 900 * S)
    assert not is_late(structs.replace(JOB, started_unix_us=None), 10 * S)


def test_the_pace_that_a_job_needs() -> None:
    job = structs.replace(JOB, items=100, succeeded=10)
    assert needed_per_s(job, 900 * S) == 1.0  # 90 items in 90 of the last 100 s
    assert needed_per_s(job, 1000 * S) == math.inf
