"""`moegate admin`: drains, reloads, budgets and corrections of a running gateway."""

from __future__ import annotations

import argparse
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from gateway.config.money import NANO_USD
from moegate.cli.channel import add_channel_arguments, call_method, open_channel
from moegate.cli.command_runner import run_command
from moegate.cli.views.budgets import budgets_table
from moegate.cli.views.fitted_table import table_console
from moegate.cli.views.money import usd
from moegate.v1 import admin_pb2, admin_pb2_grpc

TIMEOUT_S = 60.0
PERIODS = {
    "hour": admin_pb2.BUDGET_PERIOD_HOUR,
    "day": admin_pb2.BUDGET_PERIOD_DAY,
    "month": admin_pb2.BUDGET_PERIOD_MONTH,
}
if TYPE_CHECKING:
    Stub = admin_pb2_grpc.AdminServiceAsyncStub
Work = Callable[["Stub", argparse.Namespace], Awaitable[None]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    kinds = parser.add_subparsers(required=True, metavar="KIND")

    def kind(name: str, work: Work, text: str) -> argparse.ArgumentParser:
        made = kinds.add_parser(name, help=text)
        add_channel_arguments(made)
        made.set_defaults(run=partial(_run, work))
        return made

    for name, work, text in (
        ("drain", _drain, "send no new request to a placement"),
        ("undrain", _undrain, "send requests to a drained placement again"),
    ):
        kind(name, work, text).add_argument(
            "placement", help="pool/replica, or the name of a remote"
        )
    kind("reload", _reload, "read the configuration file again")
    listed = kind("budgets", _budgets, "list budgets and how they stand")
    listed.add_argument("--tenant", default="", help="only this one")
    listed.add_argument("--json", action="store_true", help="print JSON instead of a table")
    set_ = kind("set-budget", _set_budget, "set a budget, over the configuration file's")
    delete = kind(
        "delete-budget", _delete_budget, "delete a budget, also one of the configuration file"
    )
    for scoped in (set_, delete):
        scoped.add_argument("--tenant", required=True)
        scoped.add_argument("--key-id", default="", help="absent: the whole tenant")
        scoped.add_argument("--each-session", action="store_true", help="the cap of each session")
        scoped.add_argument("--period", choices=PERIODS, required=True)
    set_.add_argument("--cap-usd", type=_nano_usd, required=True, metavar="USD")
    set_.add_argument("--soft", action="store_true", help="report, do not refuse")
    set_.add_argument(
        "--force", action="store_true", help="set it although it would refuse every request"
    )
    correct = kind("correct", _correct, "add to the charge of an attempt, or refund it")
    correct.add_argument("epoch", help="as the export tells it")
    correct.add_argument("seq", type=int, help="as the export tells it")
    correct.add_argument("--usd", type=_nano_usd, required=True, help="to add; -0.05: a refund")
    correct.add_argument("--note", required=True, help="why")
    ledger = kind("ledger", _ledger, "whether the ledger writes, and what waits")
    ledger.add_argument("--json", action="store_true", help="print JSON")


def _run(work: Work, args: argparse.Namespace) -> int:
    return run_command(_call(work, args))


async def _call(work: Work, args: argparse.Namespace) -> None:
    async with open_channel(args) as channel:
        await work(admin_pb2_grpc.AdminServiceStub(channel), args)


async def _drain(stub: Stub, args: argparse.Namespace) -> None:
    request = admin_pb2.DrainRequest(placement=args.placement)
    answer = await call_method(args, stub.Drain, request, TIMEOUT_S)
    print(f"{args.placement} gets no new request; {answer.running_requests} still run there")


async def _undrain(stub: Stub, args: argparse.Namespace) -> None:
    request = admin_pb2.UndrainRequest(placement=args.placement)
    await call_method(args, stub.Undrain, request, TIMEOUT_S)
    print(f"{args.placement} may get requests again")


async def _reload(stub: Stub, args: argparse.Namespace) -> None:
    answer = await call_method(args, stub.Reload, admin_pb2.ReloadRequest(), TIMEOUT_S)
    print(f"reloaded; changed: {'; '.join(answer.changes) or 'nothing'}")


async def _budgets(stub: Stub, args: argparse.Namespace) -> None:
    request = admin_pb2.ListBudgetsRequest(tenant=args.tenant)
    answer = await call_method(args, stub.ListBudgets, request, TIMEOUT_S)
    if args.json:
        _print_json(answer)
        return
    table_console().print(budgets_table(answer.budgets))


async def _set_budget(stub: Stub, args: argparse.Namespace) -> None:
    budget = admin_pb2.Budget(scope=_scope(args), cap_nano_usd=args.cap_usd, hard=not args.soft)
    request = admin_pb2.SetBudgetRequest(budget=budget, force=args.force)
    answer = await call_method(args, stub.SetBudget, request, TIMEOUT_S)
    kind = "soft" if args.soft else "hard"
    whose = f"{args.tenant} {args.key_id}".rstrip()
    print(f"{kind} budget of ${usd(args.cap_usd)} a {args.period} for {whose}")
    for warning in answer.warnings:
        print(f"warning: {warning}")


async def _delete_budget(stub: Stub, args: argparse.Namespace) -> None:
    request = admin_pb2.DeleteBudgetRequest(scope=_scope(args))
    await call_method(args, stub.DeleteBudget, request, TIMEOUT_S)
    print("deleted")


async def _correct(stub: Stub, args: argparse.Namespace) -> None:
    request = admin_pb2.CorrectChargeRequest(
        epoch=args.epoch, seq=args.seq, delta_nano_usd=args.usd, note=args.note
    )
    answer = await call_method(args, stub.CorrectCharge, request, TIMEOUT_S)
    print(f"the attempt is now charged ${usd(answer.charged_nano_usd)}")


async def _ledger(stub: Stub, args: argparse.Namespace) -> None:
    request = admin_pb2.GetLedgerStatusRequest()
    answer = await call_method(args, stub.GetLedgerStatus, request, TIMEOUT_S)
    if args.json:
        _print_json(answer)
        return
    if answer.error:
        print(
            f"cannot write for {answer.failing.ToTimedelta().total_seconds():.0f} s: {answer.error}"
        )
    else:
        print("writes")
    print(f"{answer.written_rows} rows written, {answer.backlog_rows} wait", end="")
    print(f" (at most {answer.backlog_limit_rows}), {answer.leases} open leases")
    if answer.lost_rows:
        print(f"{answer.lost_rows} rows were lost, ${usd(answer.lost_nano_usd)} of charges")


def _scope(args: argparse.Namespace) -> admin_pb2.BudgetScope:
    return admin_pb2.BudgetScope(
        tenant=args.tenant,
        key_id=args.key_id,
        each_session=args.each_session,
        period=PERIODS[args.period],
    )


def _print_json(message: Message) -> None:
    fields = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    print(json.dumps(fields, indent=2))


def _nano_usd(text: str) -> int:
    try:
        nano_usd = Decimal(text) * NANO_USD
    except InvalidOperation:
        raise argparse.ArgumentTypeError("US dollars, such as 12.50") from None
    if nano_usd != int(nano_usd) or abs(nano_usd) >= 1 << 62:
        raise argparse.ArgumentTypeError("US dollars with at most nine decimals")
    return int(nano_usd)
