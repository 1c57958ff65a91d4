"""`moegate batch`: offline jobs at a gateway, from a file in the format of OpenAI's Batch API."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO

from gateway.config.money import nano_usd
from moegate.cli.channel import add_channel_arguments, call_metadata, call_method, open_channel
from moegate.cli.command_runner import CommandFailed, run_command
from moegate.cli.views.batches import (
    ENDED,
    batch_table,
    print_batch,
    print_quote,
    progress_bar,
    result_line,
    show_progress,
)
from moegate.cli.views.fitted_table import table_console
from moegate.v1 import batch_pb2, batch_pb2_grpc

PIECE_BYTES = 512 * 1024
TIMEOUT_S = 60.0
SUBMIT_S = 3600.0
POLL_S = 1.0
_SPAN = re.compile(r"([1-9][0-9]{0,4})([smhd])\Z")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    submit = kinds.add_parser("submit", help="hand in a file: one request a line")
    _add_job_arguments(submit)
    submit.add_argument("--wait", action="store_true", help="show progress until it has ended")
    submit.set_defaults(run=lambda args: run_command(_submit(args)))
    quote = kinds.add_parser("quote", help="what a file would cost and when it would have ended")
    _add_job_arguments(quote)
    quote.set_defaults(run=lambda args: run_command(_quote(args)))
    listed = kinds.add_parser("list", help="jobs of the key's tenant, newest first")
    listed.add_argument("--limit", type=int, default=20, help="jobs (%(default)s)")
    listed.add_argument("--all-tenants", action="store_true", help="of all, for operators")
    listed.set_defaults(run=lambda args: run_command(_list(args)))
    get = kinds.add_parser("get", help="state, progress and cost of a job")
    get.add_argument("--wait", action="store_true", help="show progress until it has ended")
    get.set_defaults(run=lambda args: run_command(_get(args)))
    cancel = kinds.add_parser("cancel", help="stop a job; results that are there stay")
    cancel.set_defaults(run=lambda args: run_command(_cancel(args)))
    results = kinds.add_parser("results", help="results, a line of JSON each, as they finish")
    results.add_argument("--output", type=Path, metavar="FILE", help="to write (standard output)")
    results.add_argument("--in-order", action="store_true", help="once it has ended, as submitted")
    results.add_argument("--skip", type=int, default=0, help="results to leave out")
    results.set_defaults(run=lambda args: run_command(_results(args)))
    for kind in (get, cancel, results):
        kind.add_argument("batch_id", help="id of the job")
    for kind in (submit, quote, listed, get, cancel, results):
        add_channel_arguments(kind)


def _add_job_arguments(submit: argparse.ArgumentParser) -> None:
    submit.add_argument("file", help="in the format of OpenAI's Batch API; - for standard input")
    submit.add_argument("--endpoint", help="path that each line names (that of the first line)")
    submit.add_argument("--within", type=_seconds, metavar="TIME", help="2h, 7d (24h)")
    submit.add_argument("--max-cost", type=_nano_usd, metavar="USD", help="of the whole job")
    submit.add_argument("--local-only", action="store_true", help="own servers only")
    submit.add_argument(
        "--metadata", type=_pair, action="append", default=[], metavar="NAME=VALUE", help="kept"
    )
    submit.add_argument(
        "--label", type=_pair, action="append", default=[], metavar="NAME=VALUE", help="for reports"
    )


async def _quote(args: argparse.Namespace) -> None:
    with _opened(args.file) as file:
        job = _messages(args, file)

        async def messages() -> AsyncIterator[batch_pb2.QuoteBatchRequest]:
            for message in job:
                yield batch_pb2.QuoteBatchRequest(batch=message)

        async with open_channel(args) as channel:
            stub = batch_pb2_grpc.BatchServiceStub(channel)
            answer = await stub.QuoteBatch(
                messages(), metadata=call_metadata(args), timeout=SUBMIT_S
            )
    print_quote(answer)


async def _submit(args: argparse.Namespace) -> None:
    with _opened(args.file) as file:
        job = _messages(args, file)

        async def messages() -> AsyncIterator[batch_pb2.SubmitBatchRequest]:
            for message in job:
                yield message

        async with open_channel(args) as channel:
            stub = batch_pb2_grpc.BatchServiceStub(channel)
            answer = await stub.SubmitBatch(
                messages(), metadata=call_metadata(args), timeout=SUBMIT_S
            )
            print(answer.batch.batch_id, flush=True)
            if args.wait:
                args.batch_id = answer.batch.batch_id
                print_batch(await _until_ended(args, stub))


def _messages(args: argparse.Namespace, file: BinaryIO) -> Iterator[batch_pb2.SubmitBatchRequest]:
    """The settings of a job with the first piece of its file, then the other pieces. Raises
    CommandFailed."""
    pieces = _pieces(file)
    head = next(pieces, b"")
    first = batch_pb2.SubmitBatchRequest(
        openai_lines=head,
        endpoint=args.endpoint or _endpoint(head),
        metadata=dict(args.metadata),
        labels=dict(args.label),
    )
    first.data_policy.local_only = args.local_only
    if args.within is not None:
        first.complete_before.FromSeconds(round(time.time() + args.within))
    if args.max_cost is not None:
        first.max_cost_nano_usd = args.max_cost
    rest = (batch_pb2.SubmitBatchRequest(openai_lines=piece) for piece in pieces)
    return itertools.chain([first], rest)


async def _list(args: argparse.Namespace) -> None:
    async with open_channel(args) as channel:
        stub = batch_pb2_grpc.BatchServiceStub(channel)
        request = batch_pb2.ListBatchesRequest(page_size=args.limit, all_tenants=args.all_tenants)
        answer = await call_method(args, stub.ListBatches, request, TIMEOUT_S)
    table_console().print(batch_table(answer.batches, of_all=args.all_tenants))


async def _get(args: argparse.Namespace) -> None:
    async with open_channel(args) as channel:
        stub = batch_pb2_grpc.BatchServiceStub(channel)
        batch = await (_until_ended if args.wait else _state)(args, stub)
    print_batch(batch)


async def _cancel(args: argparse.Namespace) -> None:
    async with open_channel(args) as channel:
        stub = batch_pb2_grpc.BatchServiceStub(channel)
        request = batch_pb2.CancelBatchRequest(batch_id=args.batch_id)
        answer = await call_method(args, stub.CancelBatch, request, TIMEOUT_S)
    print_batch(answer.batch)


async def _results(args: argparse.Namespace) -> None:
    request = batch_pb2.StreamBatchResultsRequest(
        batch_id=args.batch_id, skip=args.skip, in_order=args.in_order
    )
    with contextlib.ExitStack() as stack:
        output = sys.stdout
        if args.output is not None:
            try:
                output = stack.enter_context(args.output.open("w"))
            except OSError as error:
                raise CommandFailed(f"{args.output}: {error.strerror}") from error
        async with open_channel(args) as channel:
            stub = batch_pb2_grpc.BatchServiceStub(channel)
            async for result in stub.StreamBatchResults(request, metadata=call_metadata(args)):
                print(result_line(result), file=output, flush=args.output is None)


async def _state(
    args: argparse.Namespace, stub: batch_pb2_grpc.BatchServiceAsyncStub
) -> batch_pb2.Batch:
    request = batch_pb2.GetBatchRequest(batch_id=args.batch_id)
    return (await call_method(args, stub.GetBatch, request, TIMEOUT_S)).batch


async def _until_ended(
    args: argparse.Namespace, stub: batch_pb2_grpc.BatchServiceAsyncStub
) -> batch_pb2.Batch:
    """Shows progress on standard error until the job has ended."""
    with progress_bar() as bar:
        while True:
            batch = await _state(args, stub)
            show_progress(bar, batch)
            if batch.state in ENDED:
                return batch
            await asyncio.sleep(POLL_S)


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    path = Path(name)
    if not path.is_file():
        raise CommandFailed(f"{name}: there is no such file")
    with path.open("rb") as file:
        yield file


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def _endpoint(head: bytes) -> str:
    """The path that the first line names. Raises CommandFailed."""
    line = head.partition(b"\n")[0]
    try:
        found = json.loads(line).get("url")
    except (ValueError, AttributeError):
        found = None
    if not isinstance(found, str):
        raise CommandFailed("the first line names no url: give --endpoint /v1/chat/completions")
    return found


def _seconds(text: str) -> float:
    found = _SPAN.match(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: give a time such as 90m, 24h or 7d")
    return float(int(found[1]) * _UNIT_S[found[2]])


def _nano_usd(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not Decimal(text):
        raise argparse.ArgumentTypeError(f"{text!r}: give US dollars above 0 such as 12.50")
    return nano_usd(text)


def _pair(text: str) -> tuple[str, str]:
    name, is_pair, value = text.partition("=")
    if not is_pair:
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=VALUE")
    return name, value
