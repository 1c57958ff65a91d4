"""`moegate explain REQUEST_ID`: why a request ran where it did, in words and figures."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from moegate.cli import channel as client
from moegate.cli.command_runner import status_of
from moegate.cli.views.decision import view
from moegate.v1 import inference_pb2, inference_pb2_grpc

TIMEOUT_S = 10.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = subparsers.add_parser("explain", help="why a request ran where it did")
    parser.add_argument("request_id", help="id of the request, as its answer or its error told")
    parser.add_argument(
        "--key-id", default="", metavar="ID", help="whose request, for an operator; absent: own"
    )
    client.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Asks, and prints the decision."""
    return status_of(_tell(args))


async def _tell(args: argparse.Namespace) -> None:
    metadata = client.metadata(args)
    request = inference_pb2.ExplainRequest(request_id=args.request_id, key_id=args.key_id)
    async with client.channel(args) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        found = await stub.Explain(request, metadata=metadata, timeout=TIMEOUT_S)
    Console(width=None if sys.stdout.isatty() else 140).print(view(found))
