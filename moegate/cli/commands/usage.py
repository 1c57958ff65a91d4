"""`moegate usage`: spend by tenant, key, model and time, from the ledger of a gateway."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from gateway.translation.spend_figures import NUMBERS, known
from moegate.cli.channel import add_channel_arguments, call_metadata, call_method, open_channel
from moegate.cli.command_runner import CommandFailed, run_command
from moegate.cli.groups import GROUPS, group_value, label_of, parse_groups
from moegate.cli.reports import bill, focus, outlook, rates, request_costs
from moegate.cli.reports.files import add_file_argument, write_rows
from moegate.cli.spans import add_window_arguments, set_window
from moegate.cli.views.fitted_table import table_console
from moegate.cli.views.models_by_week import models_table
from moegate.cli.views.pictures import NoMatplotlib
from moegate.cli.views.usage_export import NoPyarrow, write_csv, write_parquet
from moegate.cli.views.usage_report import as_json, save_png, table
from moegate.v1 import usage_pb2, usage_pb2_grpc

ORDERS = {
    "group": usage_pb2.SPEND_ORDER_UNSPECIFIED,
    "spend": usage_pb2.SPEND_ORDER_SPEND,
    "tokens": usage_pb2.SPEND_ORDER_TOKENS,
}
TIMEOUT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    spend = kinds.add_parser("spend", help="sums, grouped as you like")
    spend.add_argument(
        "--by",
        type=parse_groups,
        default=["tenant", "model"],
        metavar="GROUPS",
        help=f"of {', '.join(GROUPS)}, label:KEY; several with commas (tenant,model)",
    )
    spend.add_argument("--order", choices=ORDERS, default="group", help="of the rows")
    models = kinds.add_parser("models", help="models ranked, week by week")
    models.add_argument("--order", choices=("spend", "tokens"), default="spend")
    models.set_defaults(by=["week", "model"])
    for report in (spend, models):
        report.add_argument("--model", default="", help="only this one")
        report.add_argument("--key-id", default="", help="only this key")
        report.add_argument("--limit", type=int, default=1000, help="rows (%(default)s)")
        report.add_argument("--json", action="store_true", help="print JSON instead of a table")
        report.add_argument("--png", type=Path, metavar="FILE", help="draw it too")
        add_file_argument(report)
        report.set_defaults(run=run_report)
    models.set_defaults(ranked=True)
    export = kinds.add_parser("export", help="every row of the ledger, as CSV or Parquet")
    export.add_argument("file", type=Path, help="to write; its ending says how: .csv or .parquet")
    export.set_defaults(run=run_export)
    for kind in (spend, models, export):
        add_channel_arguments(kind)
        kind.add_argument("--tenant", default="", help="only this one")
        add_window_arguments(kind)
    for name, declare, text in (
        ("bill", bill.add_arguments, "the whole bill: whose it is, idle included"),
        (
            "outlook",
            outlook.add_arguments,
            "this month, the last, forecasts, when budgets are gone",
        ),
        ("requests", request_costs.add_arguments, "single requests, the dearest first"),
        ("overflow", rates.add_overflow_arguments, "what remotes cost, and own servers would have"),
        ("focus", focus.add_arguments, "the bill in the columns of FOCUS, for tools of finance"),
        ("rates", rates.add_rates_arguments, "cost per million tokens of own pools over time"),
    ):
        declare(kinds.add_parser(name, help=text))


def run_report(args: argparse.Namespace) -> int:
    """Prints sums of the ledger's rows."""
    return run_command(_report(args))


def run_export(args: argparse.Namespace) -> int:
    """Writes the ledger's rows to a file."""
    return run_command(_export(args))


async def _report(args: argparse.Namespace) -> None:
    request = usage_pb2.GetSpendRequest(
        group_by=[group_value(name) for name in args.by],
        label=label_of(args.by),
        tenant=args.tenant,
        key_id=args.key_id,
        model=args.model,
        order_by=ORDERS[args.order],
        limit=args.limit,
    )
    set_window(request, args)
    async with open_channel(args) as channel:
        stub = usage_pb2_grpc.UsageServiceStub(channel)
        answer = await call_method(args, stub.GetSpend, request, TIMEOUT_S)
    if args.png is not None:
        try:
            await asyncio.to_thread(save_png, args.by, answer, args.png)
        except (NoMatplotlib, OSError) as error:
            raise CommandFailed(str(error)) from error
    if args.out is not None:
        rows = [[*row.group, *known(row)] for row in answer.rows]
        try:
            await asyncio.to_thread(write_rows, args.out, [*args.by, *NUMBERS], rows)
        except (NoPyarrow, OSError) as error:
            raise CommandFailed(str(error)) from error
    if args.json:
        print(json.dumps(as_json(args.by, answer), indent=2))
        return
    shown = models_table(answer) if "ranked" in args else table(args.by, answer)
    table_console().print(shown)
    if answer.truncated:
        print(f"only the first {len(answer.rows)} rows: raise --limit", file=sys.stderr)


async def _export(args: argparse.Namespace) -> None:
    writers = {".csv": write_csv, ".parquet": write_parquet}
    writer = writers.get(args.file.suffix)
    if writer is None:
        raise CommandFailed(f"{args.file}: end its name in .csv or .parquet")
    request = usage_pb2.ExportAttemptsRequest(tenant=args.tenant)
    set_window(request, args)
    async with open_channel(args) as channel:
        call = usage_pb2_grpc.UsageServiceStub(channel).ExportAttempts(
            request, metadata=call_metadata(args)
        )
        try:
            rows = await writer(args.file, _pages(call))
        except (NoPyarrow, OSError) as error:
            raise CommandFailed(str(error)) from error
    print(f"{rows} rows in {args.file}")


async def _pages(
    call: AsyncIterable[usage_pb2.ExportAttemptsResponse],
) -> AsyncIterator[list[usage_pb2.AttemptRow]]:
    async for answer in call:
        yield list(answer.rows)
