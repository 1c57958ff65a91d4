"""`moegate usage requests`: single requests, the dearest first or as asked."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from decimal import Decimal
from typing import Any

from gateway.config.money import NANO_USD
from moegate.cli.channel import add_channel_arguments, call_method, open_channel
from moegate.cli.command_runner import CommandFailed, run_command
from moegate.cli.reports.files import add_file_argument, write_rows
from moegate.cli.spans import add_window_arguments, set_window
from moegate.cli.views.fitted_table import Column, FittedTable, number, table_console
from moegate.cli.views.money import usd
from moegate.cli.views.usage_export import NoPyarrow
from moegate.v1 import usage_pb2, usage_pb2_grpc

TIMEOUT_S = 60.0
ORDERS = {
    "charged": usage_pb2.REQUEST_ORDER_UNSPECIFIED,
    "metered": usage_pb2.REQUEST_ORDER_METERED,
    "tokens": usage_pb2.REQUEST_ORDER_TOKENS,
    "duration": usage_pb2.REQUEST_ORDER_DURATION,
    "ended": usage_pb2.REQUEST_ORDER_ENDED,
}
FILTERS = ("tenant", "key_id", "model", "placement", "session_id", "outcome", "end_user")
HEADER = (
    *("request_id", "tenant", "key_id", "session_id", "model", "slo_class", "placements"),
    *("outcome", "attempts", "started_at", "ended_at", "prompt_tokens", "cached_tokens"),
    *("completion_tokens", "metered_nano_usd", "charged_nano_usd"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.add_argument("--order", choices=ORDERS, default="charged", help="the largest first")
    for name in FILTERS:
        parser.add_argument(
            f"--{name.replace('_', '-')}", default="", help=f"only this {name.replace('_', ' ')}"
        )
    parser.add_argument(
        "--label",
        type=_label,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only with this label; several times: with all of them",
    )
    parser.add_argument(
        "--min-usd", type=Decimal, default=Decimal(0), help="only of this charge or more"
    )
    parser.add_argument("--limit", type=int, default=20, help="requests (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_file_argument(parser)
    add_channel_arguments(parser)
    add_window_arguments(parser)
    parser.set_defaults(run=run)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals or not value:
        raise argparse.ArgumentTypeError(f"{text}: such as team=search")
    return key, value


def run(args: argparse.Namespace) -> int:
    """Requests the list and prints it."""
    return run_command(_requests(args))


async def _requests(args: argparse.Namespace) -> None:
    request = usage_pb2.ListRequestsRequest(
        order_by=ORDERS[args.order],
        limit=args.limit,
        min_charged_nano_usd=int(args.min_usd * NANO_USD),
        labels=dict(args.label),
        **{name: getattr(args, name) for name in FILTERS},
    )
    set_window(request, args)
    async with open_channel(args) as channel:
        stub = usage_pb2_grpc.UsageServiceStub(channel)
        answer = await call_method(args, stub.ListRequests, request, TIMEOUT_S)
    found = [values(cost) for cost in answer.requests]
    if args.out is not None:
        try:
            await asyncio.to_thread(write_rows, args.out, HEADER, found)
        except (NoPyarrow, OSError) as error:
            raise CommandFailed(str(error)) from error
    if args.json:
        print(json.dumps([dict(zip(HEADER, row, strict=True)) for row in found], indent=2))
        return
    table_console().print(table(list(answer.requests)))
    if answer.truncated:
        print(f"only the first {len(found)} requests: raise --limit", file=sys.stderr)


def values(cost: usage_pb2.RequestCost) -> list[Any]:
    """Values of `HEADER`; None: unknown."""
    found: dict[str, Any] = {name: getattr(cost, name) for name in HEADER}
    found["placements"] = ",".join(cost.placements)
    for name in ("started_at", "ended_at"):
        found[name] = getattr(cost, name).ToJsonString()
    for name in ("metered_nano_usd", "charged_nano_usd"):
        if not cost.HasField(name):
            found[name] = None
    return list(found.values())


def table(costs: list[usage_pb2.RequestCost]) -> FittedTable:
    """A row for each request. An unknown cost is blank."""
    rows = FittedTable(
        [
            Column(header="ended (UTC)", leaves=4),
            Column(header="request"),
            Column(header="tenant", leaves=6),
            Column(header="key", leaves=3),
            Column(header="model", leaves=2),
            Column(header="where", leaves=1, wraps=12),
            number("input", leaves=5),
            number("output", leaves=5),
            number("seconds", leaves=7),
            number("metered $", leaves=3),
            number("charged $"),
            Column(header="outcome", leaves=8),
        ]
    )
    for cost in costs:
        seconds = (cost.ended_at.ToNanoseconds() - cost.started_at.ToNanoseconds()) / 1e9
        rows.add_row(
            cost.ended_at.ToJsonString()[:19].replace("T", " "),
            cost.request_id,
            cost.tenant,
            cost.key_id,
            cost.model,
            ", ".join(cost.placements),
            f"{cost.prompt_tokens:,}",
            f"{cost.completion_tokens:,}",
            f"{seconds:.1f}",
            usd(cost.metered_nano_usd) if cost.HasField("metered_nano_usd") else "",
            usd(cost.charged_nano_usd) if cost.HasField("charged_nano_usd") else "",
            cost.outcome if cost.attempts == 1 else f"{cost.outcome}, {cost.attempts} attempts",
        )
    return rows
