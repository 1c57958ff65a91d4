"""Offline jobs: their items, state and results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, cast

from moegate.client.answers import Answer, AnswerAssembler
from moegate.client.generation_options import GenerationOptions, generate_request
from moegate.client.messages import Chat
from moegate.v1 import batch_pb2

BatchState = Literal["queued", "running", "ended", "cancelling", "cancelled", "expired", "failed"]
NANO_USD = 1_000_000_000
PIECE_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One request of a job. `item_id`: unique within the job."""

    item_id: str
    model: str
    chat: Chat
    options: GenerationOptions = field(default_factory=lambda: GenerationOptions())


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A job. Times are in UTC; None: not yet, or unknown.

    Attributes:
        requests, succeeded, failed: its items, and those that ended.
        charged_usd: of its items that ended.
        estimated_end, estimated_usd: at the pace, and at the mean, of those.
        faults: (line, text) of bad lines of a file, 100 at most.
    """

    batch_id: str
    state: BatchState
    requests: int
    succeeded: int
    failed: int
    bad_lines: int
    faults: tuple[tuple[int, str], ...]
    charged_usd: Decimal
    estimated_usd: Decimal | None
    created_at: datetime
    complete_before: datetime
    ended_at: datetime | None
    estimated_end: datetime | None
    metadata: Mapping[str, str]

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in ("ended", "cancelled", "expired", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What came of an item: an answer, a line of a file's result, or an error. `error`: text;
    `reason`: machine-readable; empty: none."""

    item_id: str
    answer: Answer | None = None
    line: bytes = b""
    error: str = ""
    reason: str = ""


def submit_messages(
    items: Iterable[BatchItem],
    complete_before: datetime | None,
    max_cost_nano_usd: int | None,
    metadata: Mapping[str, str],
) -> Iterator[batch_pb2.SubmitBatchRequest]:
    """The messages that hand in a job."""
    for number, item in enumerate(items):
        message = batch_pb2.SubmitBatchRequest(
            item_id=item.item_id, request=generate_request(item.model, item.chat, item.options)
        )
        if not number:
            _write_settings(message, complete_before, max_cost_nano_usd, metadata)
        yield message


def file_messages(
    content: Iterable[bytes],
    endpoint: str,
    complete_before: datetime | None,
    max_cost_nano_usd: int | None,
    metadata: Mapping[str, str],
) -> Iterator[batch_pb2.SubmitBatchRequest]:
    """The messages that hand in a file. `content`: its bytes, in pieces of any size."""
    is_first = True
    for piece in content:
        for at in range(0, len(piece), PIECE_BYTES):
            message = batch_pb2.SubmitBatchRequest(openai_lines=piece[at : at + PIECE_BYTES])
            if is_first:
                is_first = False
                message.endpoint = endpoint
                _write_settings(message, complete_before, max_cost_nano_usd, metadata)
            yield message


def _write_settings(
    message: batch_pb2.SubmitBatchRequest,
    complete_before: datetime | None,
    max_cost_nano_usd: int | None,
    metadata: Mapping[str, str],
) -> None:
    if complete_before is not None:
        message.complete_before.FromDatetime(complete_before)
    if max_cost_nano_usd is not None:
        message.max_cost_nano_usd = max_cost_nano_usd
    message.metadata.update(metadata)


def batch_of(message: batch_pb2.Batch) -> Batch:
    """The job of a message."""

    def time_of(name: str) -> datetime | None:
        found: datetime = getattr(message, name).ToDatetime(UTC)
        return found if message.HasField(name) else None

    name = batch_pb2.BatchState.Name(message.state).removeprefix("BATCH_STATE_").lower()
    cost = message.estimated_nano_usd if message.HasField("estimated_nano_usd") else None
    return Batch(
        batch_id=message.batch_id,
        state=cast(BatchState, name),
        requests=message.requests,
        succeeded=message.succeeded,
        failed=message.failed,
        bad_lines=message.bad_lines,
        faults=tuple((fault.line, fault.message) for fault in message.faults),
        charged_usd=Decimal(message.charged_nano_usd) / NANO_USD,
        estimated_usd=None if cost is None else Decimal(cost) / NANO_USD,
        created_at=message.created_at.ToDatetime(UTC),
        complete_before=message.complete_before.ToDatetime(UTC),
        ended_at=time_of("ended_at"),
        estimated_end=time_of("estimated_end"),
        metadata=dict(message.metadata),
    )


def result_of(message: batch_pb2.StreamBatchResultsResponse) -> BatchResult:
    """The result of a message."""
    match message.WhichOneof("outcome"):
        case "response":
            assembler = AnswerAssembler()
            assembler.add_choices(message.response.choices)
            assembler.finish(message.response.done)
            return BatchResult(item_id=message.item_id, answer=assembler.answer())
        case "openai_line":
            return BatchResult(item_id=message.item_id, line=message.openai_line)
        case _:
            error = message.error
            return BatchResult(item_id=message.item_id, error=error.message, reason=error.reason)
