"""`moegate usage outlook`: this month against the last, its forecast, and when budgets are gone."""

from __future__ import annotations

import argparse
import json

from google.protobuf.json_format import MessageToDict
from rich.console import Group
from rich.text import Text

from moegate.cli.channel import add_channel_arguments, call_method, open_channel
from moegate.cli.command_runner import run_command
from moegate.cli.views.fitted_table import Column, FittedTable, number, table_console
from moegate.cli.views.money import usd
from moegate.v1 import usage_pb2, usage_pb2_grpc

TIMEOUT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.add_argument("--tenant", default="", help="only this one")
    parser.add_argument("--key-id", default="", help="only this key")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    add_channel_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Requests the outlook and prints it."""
    return run_command(_outlook(args))


async def _outlook(args: argparse.Namespace) -> None:
    request = usage_pb2.GetOutlookRequest(tenant=args.tenant, key_id=args.key_id)
    async with open_channel(args) as channel:
        stub = usage_pb2_grpc.UsageServiceStub(channel)
        answer = await call_method(args, stub.GetOutlook, request, TIMEOUT_S)
    if args.json:
        plain = MessageToDict(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        print(json.dumps(plain, indent=2))
    else:
        table_console().print(view(answer))


def view(answer: usage_pb2.GetOutlookResponse) -> Group:
    """The months, and the budgets. What is not known is blank."""
    months = FittedTable(
        [
            Column(header="month"),
            number("requests"),
            number("own $", leaves=2),
            number("remote $", leaves=1),
            number("metered $"),
            number("charged $"),
        ]
    )
    for name, row in (
        ("so far", answer.month_to_date),
        ("last, to this day", answer.last_month_to_date),
        ("last, whole", answer.last_month),
    ):
        months.add_row(
            name,
            f"{row.requests:,}",
            usd(row.own_nano_usd),
            usd(row.remote_nano_usd),
            usd(row.metered_nano_usd) if row.metered_attempts or not row.attempts else "",
            usd(row.charged_nano_usd),
        )
    forecasts = [
        usd(getattr(answer, name)) if answer.HasField(name) else ""
        for name in ("forecast_metered_nano_usd", "forecast_charged_nano_usd")
    ]
    months.add_row("forecast, whole", "", "", "", *forecasts, style="bold")
    parts: list[FittedTable | Text] = [months]
    if not answer.HasField("forecast_charged_nano_usd"):
        parts.append(Text("no forecast: fewer than three whole days to go by"))
    if answer.budgets:
        parts.append(_budgets(answer))
    return Group(*parts)


def _budgets(answer: usage_pb2.GetOutlookResponse) -> FittedTable:
    table = FittedTable(
        [
            Column(header="budget"),
            number("cap $"),
            number("spent $"),
            number("at its end $", leaves=1),
            Column(header="gone"),
        ]
    )
    for budget in answer.budgets:
        whose = f"{budget.tenant}, {budget.key_id}" if budget.key_id else budget.tenant
        gone = ""
        if budget.HasField("reached_at"):
            gone = f"{budget.reached_at.ToJsonString()[:16].replace('T', ' ')} UTC"
            if budget.spent_nano_usd >= budget.cap_nano_usd:
                gone = "is gone"
        elif budget.HasField("forecast_nano_usd"):
            gone = f"not this {budget.period}"
        table.add_row(
            f"{whose}, a {budget.period}{'' if budget.hard else ', soft'}",
            usd(budget.cap_nano_usd),
            usd(budget.spent_nano_usd),
            usd(budget.forecast_nano_usd) if budget.HasField("forecast_nano_usd") else "",
            gone,
        )
    return table
