"""`moegate up MODEL`: runs vLLM on this machine and the gateway in front of it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import shlex
import signal
import sys
from pathlib import Path

import uvloop

from gateway.server import RunningGateway
from moegate.up.arguments import declare, up_plan
from moegate.up.engine import EngineFailed, StopRequest, serve_model
from moegate.up.machine import CannotLaunch
from moegate.up.plan import UpPlan

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KEY_BYTES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.usage = "%(prog)s (MODEL | --tiny) [options] [-- VLLM_FLAG ...]"
    parser.epilog = "What follows a -- goes to `vllm serve` as it is."
    declare(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT. A second signal ends the wait for open streams.

    Returns 1 if vLLM fails, 2 if it cannot be started with these arguments.
    """
    logging.basicConfig(level="ERROR", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        uvloop.run(_serve(up_plan(args)))
    except CannotLaunch as error:
        print(f"moegate up: {error}", file=sys.stderr)
        return 2
    except (EngineFailed, OSError) as error:
        print(f"moegate up: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(up: UpPlan) -> None:
    stop_request = StopRequest()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop_request.signal_received)
    key = f"mg-{secrets.token_urlsafe(KEY_BYTES)}"

    def announce(gateway: RunningGateway) -> None:
        print(f"moegate listens on {gateway.address}", flush=True)
        print("# The key is shown this once and kept nowhere. Ask with:")
        print(chat_command(gateway.address, key, up.launch.served_model_name), flush=True)

    await serve_model(up, stop_request, key, announce)


def chat_command(address: str, key: str, model: str) -> str:
    """A shell command that sends a prompt to the gateway."""
    host, _, port = address.rpartition(":")
    # The client reaches a server that listens on every address through loopback.
    target = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    script = Path(sys.argv[0])
    program = [str(script)] if script.name == "moegate" else [sys.executable, "-m", "moegate"]
    words = [*program, "chat", "--target", f"{target}:{port}", "--model", model]
    return f"MOEGATE_API_KEY={key} {shlex.join(words)} 'What is a mixture of experts?'"
