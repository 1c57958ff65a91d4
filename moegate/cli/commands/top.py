"""`moegate top`: a live view of a gateway's fleet in the terminal."""

from __future__ import annotations

import argparse
import asyncio

from google.protobuf.duration_pb2 import Duration
from rich.console import Console
from rich.live import Live

from moegate.cli.channel import (
    RpcError,
    add_channel_arguments,
    call_metadata,
    is_unavailable,
    open_channel,
)
from moegate.cli.command_runner import INTERRUPTED, run_command
from moegate.cli.views import top as top_view
from moegate.v1 import usage_pb2, usage_pb2_grpc

RETRY_S = 1.0
"""Pause between a lost connection and the next call."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    add_channel_arguments(parser)
    parser.add_argument(
        "--interval", type=_interval, default=1.0, metavar="S", help="seconds (%(default)g)"
    )
    parser.add_argument("--once", action="store_true", help="print one view and end")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Shows the fleet until Ctrl-C."""
    status = run_command(_watch(args))
    return 0 if status == INTERRUPTED else status  # Ctrl-C is the regular end


async def _watch(args: argparse.Namespace) -> None:
    metadata = call_metadata(args)
    interval = Duration()
    interval.FromNanoseconds(round(args.interval * 1e9))
    request = usage_pb2.WatchFleetRequest(interval=interval)
    console = Console()
    async with open_channel(args) as channel:
        stub = usage_pb2_grpc.UsageServiceStub(channel)
        if args.once:
            async for fleet in stub.WatchFleet(request, metadata=metadata):
                console.print(top_view.view(fleet, args.target))
                return
        with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
            while True:
                seen = False
                try:
                    async for fleet in stub.WatchFleet(request, metadata=metadata):
                        seen = True
                        live.update(top_view.view(fleet, args.target), refresh=True)
                except RpcError as error:
                    # A gateway that answered before may be restarting: the view calls it again.
                    if not seen or not is_unavailable(error):
                        raise
                await asyncio.sleep(RETRY_S)


def _interval(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 60:
        raise argparse.ArgumentTypeError("0.1 to 60 seconds")
    return value
