"""What the runner needs of a door: to read an item, to run it, and to word its failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.auth.authenticator import Caller
from gateway.batch.intake import ItemHead
from gateway.batch.jobs import NO_TOKENS, Item, JobTerms, JobTokens
from gateway.batch.quotes import ItemQuote
from gateway.batch.running.retries import Retry
from gateway.domain.outcomes import Finished
from scheduler.contract import SloClass


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemCall:
    """One run of an item.

    Attributes:
        job_id: the job.
        request_id: that of every run of the item.
        content: the line or message.
        endpoint: path that the line names; empty for messages.
        remaining_s: seconds to the deadline of the job.
        slo_class: that of the run: a late job rises.
        max_cost_nano_usd: what the job's budget leaves for it; None: no limit.
        on_start: called when a placement has been found for it.
    """

    job_id: str
    request_id: str
    item: Item
    content: bytes
    endpoint: str
    caller: Caller
    terms: JobTerms
    remaining_s: float
    slo_class: SloClass
    max_cost_nano_usd: int | None
    on_start: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemAnswer:
    """What came of one run. `content`: the result in the form of the job. `retry`: the item may run
    again, None: the answer is final. `charged_nano_usd`: None: unknown, or nothing was run."""

    is_ok: bool
    content: bytes
    charged_nano_usd: int | None = None
    has_run: bool = False
    tokens: JobTokens = NO_TOKENS
    retry: Retry | None = None

    @classmethod
    def of(
        cls, content: bytes, finished: Finished | None, *, is_ok: bool, retry: Retry | None
    ) -> ItemAnswer:
        """An answer with the figures of its generation. `finished`: None: there was none."""
        if finished is None:
            return cls(is_ok=is_ok, content=content, retry=retry)
        usage = finished.usage
        tokens = JobTokens(
            prompt=usage.prompt_tokens,
            cached=usage.cached_tokens or 0,
            completion=usage.completion_tokens,
            reasoning=usage.reasoning_tokens or 0,
        )
        return cls(
            is_ok=is_ok,
            content=content,
            charged_nano_usd=finished.charged_nano_usd,
            has_run=True,
            tokens=tokens,
            retry=retry,
        )


class Execution(Protocol):
    """Items of one form."""

    def read(self, content: bytes, endpoint: str) -> ItemHead:
        """Checks a line or message. Raises BadLine."""

    async def run(self, call: ItemCall) -> ItemAnswer:
        """Runs an item through the pipeline. A failure is an answer."""

    async def quote(self, call: ItemCall) -> ItemQuote:
        """Quotes an item, which is not run. Raises ItemRefused."""

    def failed(self, job_id: str, item: Item, code: str, message: str) -> bytes:
        """The result of an item that the batch lane itself ends: its job was cancelled, its time or
        its budget is over."""
