"""`moegate usage`: spend by tenant, key, model and time, from the ledger of a gateway."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from moegate.cli.channel import add_channel_arguments, call_metadata, call_method, open_channel
from moegate.cli.command_runner import CommandFailed, run_command
from moegate.cli.views.fitted_table import table_console
from moegate.cli.views.pictures import NoMatplotlib
from moegate.cli.views.usage_export import NoPyarrow, write_csv, write_parquet
from moegate.cli.views.usage_report import as_json, save_png, table
from moegate.v1 import usage_pb2, usage_pb2_grpc

GROUPS = [name.removeprefix("SPEND_GROUP_").lower() for name in usage_pb2.SpendGroup.keys()[1:]]
ORDERS = {
    "group": usage_pb2.SPEND_ORDER_UNSPECIFIED,
    "spend": usage_pb2.SPEND_ORDER_SPEND,
    "tokens": usage_pb2.SPEND_ORDER_TOKENS,
}
TIMEOUT_S = 60.0
_SPAN = re.compile(r"([0-9]{1,5})([mhdw])\Z")
_SPAN_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    spend = kinds.add_parser("spend", help="sums, grouped as you like")
    spend.add_argument(
        "--by",
        type=_groups,
        default=["tenant", "model"],
        metavar="GROUPS",
        help=f"of {', '.join(GROUPS)}; several with commas between them (tenant,model)",
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
        report.set_defaults(run=run_report)
    export = kinds.add_parser("export", help="every row of the ledger, as CSV or Parquet")
    export.add_argument("file", type=Path, help="to write; its ending says how: .csv or .parquet")
    export.set_defaults(run=run_export)
    for kind in (spend, models, export):
        add_channel_arguments(kind)
        kind.add_argument("--tenant", default="", help="only this one")
        kind.add_argument(
            "--since", type=_time, metavar="WHEN", help="30d, 12h, or 2026-11-01 (30 days ago)"
        )
        kind.add_argument("--until", type=_time, metavar="WHEN", help="the same (now)")


def run_report(args: argparse.Namespace) -> int:
    """Prints sums of the ledger's rows."""
    return run_command(_report(args))


def run_export(args: argparse.Namespace) -> int:
    """Writes the ledger's rows to a file."""
    return run_command(_export(args))


async def _report(args: argparse.Namespace) -> None:
    request = usage_pb2.GetSpendRequest(
        group_by=[f"SPEND_GROUP_{name.upper()}" for name in args.by],
        tenant=args.tenant,
        key_id=args.key_id,
        model=args.model,
        order_by=ORDERS[args.order],
        limit=args.limit,
    )
    _set_times(request, args)
    async with open_channel(args) as channel:
        stub = usage_pb2_grpc.UsageServiceStub(channel)
        answer = await call_method(args, stub.GetSpend, request, TIMEOUT_S)
    if args.png is not None:
        try:
            await asyncio.to_thread(save_png, args.by, answer, args.png)
        except (NoMatplotlib, OSError) as error:
            raise CommandFailed(str(error)) from error
    if args.json:
        print(json.dumps(as_json(args.by, answer), indent=2))
        return
    table_console().print(table(args.by, answer))
    if answer.truncated:
        print(f"only the first {len(answer.rows)} rows: raise --limit", file=sys.stderr)


async def _export(args: argparse.Namespace) -> None:
    writers = {".csv": write_csv, ".parquet": write_parquet}
    writer = writers.get(args.file.suffix)
    if writer is None:
        raise CommandFailed(f"{args.file}: end its name in .csv or .parquet")
    request = usage_pb2.ExportAttemptsRequest(tenant=args.tenant)
    _set_times(request, args)
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


def _set_times(
    request: usage_pb2.GetSpendRequest | usage_pb2.ExportAttemptsRequest, args: argparse.Namespace
) -> None:
    if args.since is not None:
        getattr(request, "from").FromMicroseconds(round(args.since * 1e6))
    if args.until is not None:
        request.to.FromMicroseconds(round(args.until * 1e6))


def _time(text: str) -> float:
    """Parses a time, such as 30d (30 days ago) or a date or time in UTC. Returns Unix seconds."""
    if match := _SPAN.match(text):
        return time.time() - int(match[1]) * _SPAN_S[match[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "such as 30d, 12h, 2026-11-01 or 2026-11-01T12:00"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _groups(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in GROUPS]
    if unknown or not names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or text}: of {', '.join(GROUPS)}")
    return names
