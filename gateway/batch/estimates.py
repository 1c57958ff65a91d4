"""When a job will have ended, and what it will have been charged, by what has ended so far."""

from __future__ import annotations

import math

from gateway.batch.jobs import Job, JobState

LEAST_US = 1_000_000
"""Time of a job before its pace is told."""


def estimated_end_us(job: Job, now_us: int) -> int | None:
    """Unix microsecond at which a job ends at its mean pace; None: it has ended, is being stopped,
    or has no pace yet. Never after its deadline, at which it is ended."""
    ended = job.succeeded + job.failed
    if job.state is not JobState.IN_PROGRESS or job.started_unix_us is None or not ended:
        return None
    ran_us = now_us - job.started_unix_us
    if ran_us < LEAST_US:
        return None
    return min(job.deadline_unix_us, now_us + ran_us * job.left // ended)


def estimated_nano_usd(job: Job) -> int | None:
    """What the whole job will have been charged at the mean of the items that ended so far; None:
    none has, or some have no price."""
    ended = job.succeeded + job.failed
    if not ended or job.unpriced:
        return None
    return job.charged_nano_usd * job.items // ended


LATE_SHARE = 0.1
"""Part of a job's time that is left when it counts as late, whatever its pace."""
SPARE = 0.9
"""Part of the time left in which a job that is in time would end at its pace."""


def is_late(job: Job, now_us: int) -> bool:
    """Whether a job will miss its deadline at its pace so far, or has little time left."""
    left_us = job.deadline_unix_us - now_us
    if left_us <= LATE_SHARE * (job.deadline_unix_us - job.created_unix_us):
        return True
    ended = job.succeeded + job.failed
    if job.started_unix_us is None or not ended:
        return False
    ran_us = now_us - job.started_unix_us
    return ran_us >= LEAST_US and ran_us * job.left > SPARE * left_us * ended


def needed_per_s(job: Job, now_us: int) -> float:
    """Items a second with which a job ends in time, with some to spare; infinite at its end."""
    left_us = job.deadline_unix_us - now_us
    return 1e6 * job.left / (SPARE * left_us) if left_us > 0 else math.inf
