"""`moegate usage rates` and `usage overflow`: cost per million tokens over time, and what went to
remotes against what own servers would have cost."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from gateway.config.money import NANO_USD
from moegate.cli.channel import add_channel_arguments, call_method, open_channel
from moegate.cli.command_runner import CommandFailed, run_command
from moegate.cli.groups import TIMES, group_value
from moegate.cli.reports.files import add_file_argument, write_rows
from moegate.cli.spans import add_window_arguments, set_window
from moegate.cli.views.fitted_table import Column, FittedTable, number, table_console
from moegate.cli.views.money import usd
from moegate.cli.views.pictures import NoMatplotlib, new_figure
from moegate.cli.views.usage_export import NoPyarrow
from moegate.v1 import usage_pb2, usage_pb2_grpc

TIMEOUT_S = 60.0
KINDS = ("uncached_input", "cached_input", "output", "total")
RATES_HEADER = (
    *("period", "pool", "bill_nano_usd", "utilisation"),
    *(f"{kind}_nano_usd_per_mtok" for kind in KINDS),
)
OVERFLOW_HEADER = ("period", "model", "requests", "tokens", "remote_nano_usd", "own_nano_usd")


def add_rates_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `usage rates`."""
    parser.add_argument("--pool", default="", help="only this one")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw it, too")
    _add_arguments(parser, "day")
    parser.set_defaults(run=lambda args: run_command(_rates(args)))


def add_overflow_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `usage overflow`."""
    _add_arguments(parser, None)
    parser.set_defaults(run=lambda args: run_command(_overflow(args)))


def _add_arguments(parser: argparse.ArgumentParser, per: str | None) -> None:
    parser.add_argument("--per", choices=TIMES, default=per, help="a row for each of these times")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_file_argument(parser)
    add_channel_arguments(parser)
    add_window_arguments(parser)


async def _ask(args: argparse.Namespace) -> usage_pb2.GetStatementResponse:
    request = usage_pb2.GetStatementRequest(period=group_value(args.per or "unspecified"))
    set_window(request, args, whole_hours=True)
    async with open_channel(args) as channel:
        stub = usage_pb2_grpc.UsageServiceStub(channel)
        return await call_method(args, stub.GetStatement, request, TIMEOUT_S)


async def _rates(args: argparse.Namespace) -> None:
    answer = await _ask(args)
    found = rate_rows(answer, args.pool)
    try:
        if args.png is not None:
            await asyncio.to_thread(save_png, found, args.png)
    except (NoMatplotlib, OSError) as error:
        raise CommandFailed(str(error)) from error
    table = FittedTable(
        [
            Column(header="period"),
            Column(header="pool"),
            number("bill $", leaves=1),
            number("used", leaves=2),
            *(number(f"{kind.replace('_', ' ')}\n$ per million") for kind in KINDS),
        ]
    )
    for period, pool, bill, used, *rates in found:
        cells = ["" if rate is None else usd(rate) for rate in rates]
        table.add_row(period, pool, usd(bill), "" if used is None else f"{used:.0%}", *cells)
    await _show(args, RATES_HEADER, found, table)


def rate_rows(answer: usage_pb2.GetStatementResponse, pool: str = "") -> list[list[Any]]:
    """Values of `RATES_HEADER`; None: unknown."""
    found: list[list[Any]] = []
    for statement in answer.statements:
        for bill in statement.pools:
            if pool not in ("", bill.pool):
                continue
            rates = {rate.token_kind: rate.allocated_nano_usd_per_mtok for rate in bill.rates}
            used = bill.utilisation if bill.HasField("utilisation") else None
            found.append(
                [statement.period, bill.pool, bill.bill_nano_usd, used, *map(rates.get, KINDS)]
            )
    return found


def save_png(found: list[list[Any]], path: Path) -> None:
    """Draws the rates of each pool over time. Raises NoMatplotlib or OSError."""
    figure = new_figure(10, 5)
    axes = figure.subplots()
    periods = list(dict.fromkeys(row[0] for row in found))
    for pool in dict.fromkeys(row[1] for row in found):
        rows = {row[0]: row for row in found if row[1] == pool}
        for column, kind in enumerate(KINDS, 4):
            drawn = [
                None
                if period not in rows or rows[period][column] is None
                else rows[period][column] / NANO_USD
                for period in periods
            ]
            if any(value is not None for value in drawn):
                numbers = [float("nan") if value is None else value for value in drawn]
                label = f"{pool}: {kind.replace('_', ' ')}"
                axes.plot(range(len(periods)), numbers, marker="o", markersize=3, label=label)
    step = max(1, -(-len(periods) // 12))
    axes.set_xticks(range(0, len(periods), step), periods[::step], rotation=30, ha="right")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("US dollars per million tokens, idle inside")
    axes.set_title("Cost of tokens over time")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=120)


async def _overflow(args: argparse.Namespace) -> None:
    found = overflow_rows(await _ask(args))
    table = FittedTable(
        [
            Column(header="period", leaves=0 if args.per else 1),
            Column(header="model"),
            number("requests"),
            number("tokens"),
            number("remote $"),
            number("own would be $"),
            number("saved by own $", leaves=1),
        ]
    )
    for period, model, requests, tokens, remote, own in found:
        saved = "" if own is None else usd(remote - own)
        cells = (usd(remote), "" if own is None else usd(own), saved)
        table.add_row(period, model, f"{requests:,}", f"{tokens:,}", *cells)
    await _show(args, OVERFLOW_HEADER, found, table)


def overflow_rows(answer: usage_pb2.GetStatementResponse) -> list[list[Any]]:
    """Values of `OVERFLOW_HEADER`; None: unknown."""
    return [
        [
            statement.period,
            model.model,
            model.requests,
            model.tokens,
            model.remote_nano_usd,
            model.own_nano_usd if model.HasField("own_nano_usd") else None,
        ]
        for statement in answer.statements
        for model in statement.overflow
    ]


async def _show(
    args: argparse.Namespace, header: tuple[str, ...], found: list[list[Any]], table: FittedTable
) -> None:
    if args.out is not None:
        try:
            await asyncio.to_thread(write_rows, args.out, header, found)
        except (NoPyarrow, OSError) as error:
            raise CommandFailed(str(error)) from error
    if args.json:
        print(json.dumps([dict(zip(header, row, strict=True)) for row in found], indent=2))
    else:
        table_console().print(table)
