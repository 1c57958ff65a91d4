"""The part of the configuration on the batch lane: offline jobs and the files of their requests."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.config.values import Count, Seconds


class BatchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds of offline jobs. Files, jobs and results are kept in the ledger's database."""

    tenant_files: Count = 500
    """Most uploaded files of one tenant that are kept."""
    tenant_bytes: Count = 2 * 1024 * 1024 * 1024
    """Most bytes of uploaded files and of results of one tenant that are kept. A new file or job
    beyond it is refused; results of a job that runs are kept nevertheless."""
    file_bytes: Count = 200 * 1024 * 1024
    """Largest uploaded file."""
    line_bytes: Count = 4 * 1024 * 1024
    """Largest line of an uploaded file. A longer one is reported as a bad line."""
    upload_s: Seconds = 900.0
    """How long an upload may take."""
    tenant_open_jobs: Count = 50
    """Most jobs of one tenant that have not ended."""
    job_items: Count = 100_000
    """Most requests of one job."""
    items_in_flight: Count = 256
    """Most requests of all jobs that run or wait for a placement at once."""
    items_waiting: Count = 16
    """Of these, most that wait for a placement, for each model: so many are ready to fill what
    becomes free, and no more fill the queue."""
    deadline_s: Seconds = 86_400.0
    """Time of a job that names none. What has not run by then fails."""
    keep_days: Annotated[int, Meta(ge=1, le=3650)] = 30
    """How long results are kept after the end of their job, and files that name no time after their
    upload."""

    @property
    def keep_us(self) -> int:
        """`keep_days` in microseconds."""
        return self.keep_days * 86_400_000_000
