"""`moegate top`: the live fleet in a terminal, from any gateway that can be reached."""

from __future__ import annotations

import argparse
import asyncio

import grpc
from google.protobuf.duration_pb2 import Duration
from rich.console import Console
from rich.live import Live

from moegate.cli import channel as client
from moegate.cli.command_runner import status_of
from moegate.cli.views import top as top_view
from moegate.v1 import usage_pb2, usage_pb2_grpc

RETRY_S = 1.0
"""How long after a lost connection the view asks again."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "top", help="watch the fleet: replicas, batches, tokens/s, $/M, queue, overflow"
    )
    client.add_arguments(parser)
    parser.add_argument(
        "--interval", type=_interval, default=1.0, metavar="S", help="seconds (%(default)g)"
    )
    parser.add_argument("--once", action="store_true", help="print one view and end")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Watches until Ctrl-C."""
    status = status_of(_watch(args))
    return 0 if status == client.INTERRUPTED else status  # Ctrl-C is the way to end it


async def _watch(args: argparse.Namespace) -> None:
    metadata = client.metadata(args)
    interval = Duration()
    interval.FromNanoseconds(round(args.interval * 1e9))
    request = usage_pb2.WatchFleetRequest(interval=interval)
    console = Console()
    async with client.channel(args) as channel:
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
                except grpc.aio.AioRpcError as error:
                    # A gateway that restarts is worth waiting for, one that never answered not.
                    if not seen or error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                await asyncio.sleep(RETRY_S)


def _interval(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 60:
        raise argparse.ArgumentTypeError("0.1 to 60 seconds")
    return value
