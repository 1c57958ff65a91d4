"""Offline jobs, their items and results, as values that doors, store and runner share.

An item is one request of a job. Its number is that of its line or message, from 1, and names it
for good: the request id of its generation comes from job and number, so that every run of an item
is known as one of it.
"""

from __future__ import annotations

import enum

import msgspec

JOB_PREFIX = "batch_"
MOST_FAULTS = 100
"""Bad lines of a job that are described. Further ones are only counted."""


class JobState(enum.StrEnum):
    """State of a job."""

    VALIDATING = "validating"
    """Its items are being read from its file."""
    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"
    """The caller stops it; what runs is being ended."""
    COMPLETED = "completed"
    """Every item has ended."""
    FAILED = "failed"
    """It has no item that can run."""
    EXPIRED = "expired"
    """Its deadline passed before every item had run."""
    CANCELLED = "cancelled"


ENDED = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED})


class Form(enum.StrEnum):
    """What the items of a job are."""

    OPENAI = "openai"
    """Lines in the format of OpenAI's Batch API."""
    GRPC = "grpc"
    """Messages of SubmitBatch."""


class JobTerms(msgspec.Struct, frozen=True, kw_only=True):
    """Terms that hold for a whole job. `max_cost_nano_usd`: most that all its items may be charged;
    None: no limit. `metadata`: pairs that the caller keeps with it. `labels_json`, `end_user`: of
    items that have none of their own. See `GenerateCall` for the data policy."""

    local_only: bool = False
    remote_classes: frozenset[str] = frozenset()
    priority: int = 0
    session_id: str = ""
    max_cost_nano_usd: int | None = None
    metadata: dict[str, str] = {}
    labels_json: str = ""
    end_user: str = ""


class JobDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be made. `deadline_s`: seconds from now; None: the gateway's figure. `endpoint`: the
    path that every line must name; empty for `Form.GRPC`."""

    form: Form
    file_id: str
    endpoint: str = ""
    deadline_s: float | None = None
    terms: JobTerms = JobTerms()


class LineFault(msgspec.Struct, frozen=True, kw_only=True):
    """A line that is no item. `line`: its number, from 1; None: the file as a whole."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class JobTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of all items that ended so far. An item whose upstream tells none adds none."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


NO_TOKENS = JobTokens()


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job. Times are Unix microseconds; None: not yet.

    Attributes:
        items: its requests, without bad lines; 0 while it is validated.
        succeeded, failed: items that ended.
        bad_lines: lines that are no items.
        charged_nano_usd: charges of all items that ended so far.
        unpriced: items without a price; their charge is in no sum.
        output_file_id, error_file_id: its results, once it has ended; empty: it has none.
        result_bytes: bytes of its results.
    """

    job_id: str
    tenant: str
    key_id: str
    form: Form
    endpoint: str
    file_id: str
    state: JobState
    terms: JobTerms
    faults: tuple[LineFault, ...]
    items: int
    succeeded: int
    failed: int
    bad_lines: int
    charged_nano_usd: int
    unpriced: int
    tokens: JobTokens
    result_bytes: int
    created_unix_us: int
    deadline_unix_us: int
    started_unix_us: int | None
    cancelling_unix_us: int | None
    ended_unix_us: int | None
    output_file_id: str = ""
    error_file_id: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in ENDED

    @property
    def left(self) -> int:
        """Items that have not ended."""
        return self.items - self.succeeded - self.failed


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a job, which lies in the file of the job. `place`: rank in the order in which
    items are started."""

    number: int
    custom_id: str
    model: str
    start_byte: int
    size_bytes: int
    place: int = 0


class ItemResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an item. `content`: in the form of the job (a line of JSON without its end, or a
    message). `charged_nano_usd`: None: no price is known, or it was not run."""

    number: int
    custom_id: str
    is_ok: bool
    content: bytes
    charged_nano_usd: int | None = None
    has_run: bool = False
    tokens: JobTokens = NO_TOKENS


class StoredResult(msgspec.Struct, frozen=True, kw_only=True):
    """A result as it is read back. `seq`: rank in the order in which items ended, from 1."""

    seq: int
    number: int
    custom_id: str
    is_ok: bool
    content: bytes


class ResultPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some results. `next_cursor`: where to go on; None: there are no more and never will be."""

    results: tuple[StoredResult, ...]
    next_cursor: int | None


def request_id(job_id: str, number: int) -> str:
    """The request id of every run of an item."""
    return f"{job_id}-{number}"
