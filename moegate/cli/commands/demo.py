"""`moegate demo`: runs gateway and load on a simulated fleet, in about a minute."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

import uvloop
from rich.console import Console

from moegate.demo.processes import ProcessFailed
from moegate.demo.run import DemoSettings, run_demo

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.add_argument(
        "--seconds",
        type=_positive,
        default=60.0,
        metavar="S",
        help="length of the load (%(default)g)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the load (%(default)s)")
    parser.add_argument(
        "--rate",
        type=_positive,
        default=8.0,
        metavar="R",
        help="requests per second outside the burst (%(default)g)",
    )
    parser.add_argument(
        "--kill-replica-after",
        type=_positive,
        metavar="S",
        help="kill one replica after S seconds, to see what becomes of its requests",
    )
    parser.add_argument(
        "--console-listen",
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="show the gateway's console there (%(default)s: a free port)",
    )
    parser.add_argument(
        "--metrics-listen",
        metavar="HOST:PORT",
        help="show the gateway's metrics there, for a Prometheus",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the demo. Returns 0 only if every check holds."""
    settings = DemoSettings(
        duration_s=args.seconds,
        rate_per_s=args.rate,
        seed=args.seed,
        kill_after_s=args.kill_replica_after,
        console_listen=args.console_listen,
        metrics_listen=args.metrics_listen,
    )
    try:
        return uvloop.run(_until_stopped(settings))
    except ProcessFailed as error:
        print(error, file=sys.stderr)
        return 1


async def _until_stopped(settings: DemoSettings) -> int:
    """Returns the exit status. A signal ends the demo and its processes in order."""
    loop = asyncio.get_running_loop()
    # Without a terminal rich uses 80 columns, which are too few for the tables.
    console = Console(width=None if sys.stdout.isatty() else 100)
    showing = asyncio.ensure_future(run_demo(settings, console))
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        showing.cancel()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return 0 if await showing else 1
    except asyncio.CancelledError:
        if not received:
            raise
        print(f"stopped by {received[0].name}", file=sys.stderr)
        return 128 + received[0]


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 86_400:
        raise argparse.ArgumentTypeError("a number of seconds or of requests, above 0")
    return value
