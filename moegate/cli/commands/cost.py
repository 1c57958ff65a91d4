"""`moegate cost POOL`: the cost of a pool's tokens, and the accounts of its bill."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from moegate.cli.channel import add_channel_arguments, call_method, open_channel
from moegate.cli.command_runner import CommandFailed, run_command
from moegate.cli.views.cost import as_json, save_png, view
from moegate.cli.views.fitted_table import table_console
from moegate.cli.views.pictures import NoMatplotlib
from moegate.v1 import usage_pb2, usage_pb2_grpc

TIMEOUT_S = 30.0
WINDOWS_S = {"minute": 60, "hour": 3600, "day": 86_400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.add_argument("pool", help="name of the pool")
    parser.add_argument(
        "--window",
        choices=WINDOWS_S,
        default="hour",
        help="that ends now, as far as the pool's meter goes back (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--png", type=Path, metavar="FILE", help="draw cost over load, remotes and break-even"
    )
    add_channel_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Requests the cost of the pool and prints it."""
    return run_command(_cost(args))


async def _cost(args: argparse.Namespace) -> None:
    window_s = WINDOWS_S[args.window]
    request = usage_pb2.GetPoolCostRequest(pool=args.pool, window=Duration(seconds=window_s))
    async with open_channel(args) as channel:
        stub = usage_pb2_grpc.UsageServiceStub(channel)
        answer = await call_method(args, stub.GetPoolCost, request, TIMEOUT_S)
    if args.png is not None:
        try:
            await asyncio.to_thread(save_png, args.pool, answer, args.png, window_s)
        except (NoMatplotlib, OSError) as error:
            raise CommandFailed(str(error)) from error
    if args.json:
        print(json.dumps(as_json(args.pool, answer), indent=2))
    else:
        table_console().print(view(args.pool, answer, window_s))
