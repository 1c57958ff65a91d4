"""Offline jobs on a terminal: a table, one job in lines, a progress bar, results as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from moegate.cli.views.money import exact_usd
from moegate.v1 import batch_pb2

ENDED = frozenset(
    {
        batch_pb2.BATCH_STATE_ENDED,
        batch_pb2.BATCH_STATE_CANCELLED,
        batch_pb2.BATCH_STATE_EXPIRED,
        batch_pb2.BATCH_STATE_FAILED,
    }
)
SHOWN_FAULTS = 10


def state_name(batch: batch_pb2.Batch) -> str:
    """The state in lower case."""
    return batch_pb2.BatchState.Name(batch.state).removeprefix("BATCH_STATE_").lower()


def batch_table(batches: Sequence[batch_pb2.Batch], *, of_all: bool) -> Table:
    """One row for each job. `of_all`: with its tenant."""
    names = ("state", "done", "failed", "requests", "$", "submitted", "ends")
    table = Table("batch", *(("tenant",) if of_all else ()), *names)
    for batch in batches:
        end = batch.ended_at if batch.HasField("ended_at") else batch.estimated_end
        table.add_row(
            batch.batch_id,
            *((batch.tenant,) if of_all else ()),
            state_name(batch),
            f"{batch.succeeded}",
            f"{batch.failed}",
            f"{batch.requests}",
            exact_usd(batch.charged_nano_usd),
            _time(batch.created_at),
            _time(end) if end.seconds else "",
        )
    return table


def print_batch(batch: batch_pb2.Batch) -> None:
    """Prints one job: state, progress, times, cost, bad lines."""
    done = batch.succeeded + batch.failed
    print(f"{batch.batch_id}: {state_name(batch)}")
    print(f"requests   {done} of {batch.requests}, {batch.failed} failed")
    if batch.bad_lines:
        print(f"bad lines  {batch.bad_lines}")
        for fault in batch.faults[:SHOWN_FAULTS]:
            print(f"           {fault.line}: {fault.message}")
    unpriced = f", {batch.unpriced} without a price" if batch.unpriced else ""
    print(f"charged    ${exact_usd(batch.charged_nano_usd)}{unpriced}")
    if batch.HasField("estimated_nano_usd") and batch.state not in ENDED:
        print(f"at the end ${exact_usd(batch.estimated_nano_usd)}")
    print(f"submitted  {_time(batch.created_at)}, to end before {_time(batch.complete_before)}")
    if batch.HasField("ended_at"):
        print(f"ended      {_time(batch.ended_at)}")
    elif batch.HasField("estimated_end"):
        print(f"ends about {_time(batch.estimated_end)}")


def print_quote(quote: batch_pb2.QuoteBatchResponse) -> None:
    """Prints what a job would cost, and when it would have ended."""
    of = "" if quote.sampled >= quote.requests else f", by {quote.sampled} of them"
    print(f"requests   {quote.requests}{of}")
    if quote.bad_lines:
        print(f"bad lines  {quote.bad_lines}")
        for fault in quote.faults[:SHOWN_FAULTS]:
            print(f"           {fault.line}: {fault.message}")
    if quote.refused:
        print(f"refused    {quote.refused} of {quote.sampled}: {quote.refusal}")
    print(f"tokens     {quote.prompt_tokens:,} in, {quote.output_tokens:,} out expected")
    own = f"${exact_usd(quote.own_nano_usd)}" if quote.HasField("own_nano_usd") else "unknown"
    print(f"own        {own}")
    for each in quote.remotes:
        print(f"at {each.remote:<7} ${exact_usd(each.nano_usd)}")
    print(f"ahead      {quote.ahead} requests of other batches")
    end = _time(quote.end) if quote.HasField("end") else "unknown"
    print(f"ends about {end}, to end before {_time(quote.complete_before)}")


def progress_bar() -> Progress:
    """A bar on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("${task.fields[usd]}"),
        TextColumn("{task.fields[ends]}"),
        console=Console(stderr=True),
    )


def show_progress(bar: Progress, batch: batch_pb2.Batch) -> None:
    """Shows the present state of a job on a bar."""
    if not bar.task_ids:
        bar.add_task("", usd="", ends="")
    ends = f"ends {_time(batch.estimated_end)}" if batch.HasField("estimated_end") else ""
    bar.update(
        bar.task_ids[0],
        description=state_name(batch),
        total=batch.requests or None,
        completed=batch.succeeded + batch.failed,
        usd=exact_usd(batch.charged_nano_usd),
        ends=ends,
    )


def result_line(result: batch_pb2.StreamBatchResultsResponse) -> str:
    """A result as a line of JSON: that of a file as it is, that of a message in protobuf's JSON."""
    if result.openai_line:
        return result.openai_line.decode()
    return json.dumps(MessageToDict(result, preserving_proto_field_name=True))


def _time(stamp: Timestamp) -> str:
    found = datetime.fromtimestamp(stamp.seconds, UTC).astimezone()
    return found.strftime("%Y-%m-%d %H:%M")
