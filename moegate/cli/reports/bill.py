"""`moegate usage bill`: the whole bill of a window, own servers and remotes, and whose it is."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from moegate.cli.channel import add_channel_arguments, call_method, open_channel
from moegate.cli.command_runner import CommandFailed, run_command
from moegate.cli.groups import GROUPS, TIMES, group_value, parse_groups
from moegate.cli.reports import statement
from moegate.cli.reports.files import add_file_argument, write_rows
from moegate.cli.spans import add_window_arguments, set_window
from moegate.cli.views.fitted_table import table_console
from moegate.cli.views.pictures import NoMatplotlib
from moegate.cli.views.usage_export import NoPyarrow
from moegate.v1 import usage_pb2, usage_pb2_grpc

TIMEOUT_S = 60.0
RULES = {
    "none": usage_pb2.SHARING_RULE_UNSPECIFIED,
    "use": usage_pb2.SHARING_RULE_USE,
    "weight": usage_pb2.SHARING_RULE_WEIGHT,
    "row": usage_pb2.SHARING_RULE_ROW,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.add_argument(
        "--by",
        type=parse_groups,
        default=["tenant"],
        metavar="GROUPS",
        help=f"of {', '.join(name for name in GROUPS if name not in TIMES)}; up to three",
    )
    parser.add_argument("--per", choices=TIMES, help="a statement for each of these times")
    parser.add_argument(
        "--share",
        choices=RULES,
        default="none",
        help="who bears idle time and the rest: nobody (none), users of the pool in proportion "
        "(use), by --weight, or a row of its own as OpenCost has it (row)",
    )
    parser.add_argument(
        "--weight", type=_weights, default={}, metavar="NAME=N,...", help="as search=3,ads=1"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    add_file_argument(parser)
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw it, too")
    add_channel_arguments(parser)
    add_window_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Requests the statement and prints it."""
    return run_command(_bill(args))


async def _bill(args: argparse.Namespace) -> None:
    request = usage_pb2.GetStatementRequest(
        group_by=[group_value(name) for name in args.by],
        period=group_value(args.per or "unspecified"),
        sharing=RULES[args.share],
        weights=args.weight,
    )
    set_window(request, args, whole_hours=True)
    async with open_channel(args) as channel:
        stub = usage_pb2_grpc.UsageServiceStub(channel)
        answer = await call_method(args, stub.GetStatement, request, TIMEOUT_S)
    try:
        if args.png is not None:
            await asyncio.to_thread(statement.save_png, args.by, answer, args.png)
        if args.out is not None:
            header = [*args.by, *statement.HEADER]
            await asyncio.to_thread(write_rows, args.out, header, statement.rows(answer))
    except (NoMatplotlib, NoPyarrow, OSError) as error:
        raise CommandFailed(str(error)) from error
    if args.json:
        print(json.dumps(statement.as_json(args.by, answer), indent=2))
    else:
        table_console().print(statement.view(args.by, answer))


def _weights(text: str) -> dict[str, int]:
    found = {}
    for part in text.split(","):
        name, equals, weight = part.rpartition("=")
        if not equals or not weight.isdecimal():
            raise argparse.ArgumentTypeError(f"{part}: such as search=3,ads=1")
        found[name] = int(weight)
    return found
