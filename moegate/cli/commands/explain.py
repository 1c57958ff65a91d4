"""`moegate explain REQUEST_ID`: explains the placement of a request."""

from __future__ import annotations

import argparse

from moegate.cli.channel import add_channel_arguments, call_method, open_channel
from moegate.cli.command_runner import run_command
from moegate.cli.views.decision import view
from moegate.cli.views.fitted_table import table_console
from moegate.v1 import inference_pb2, inference_pb2_grpc

TIMEOUT_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.add_argument("request_id", help="id of the request, from its answer or its error")
    parser.add_argument(
        "--key-id",
        default="",
        metavar="ID",
        help="key that sent the request, for an operator; absent: the own key",
    )
    add_channel_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Requests the decision record and prints it."""
    return run_command(_explain(args))


async def _explain(args: argparse.Namespace) -> None:
    request = inference_pb2.ExplainRequest(request_id=args.request_id, key_id=args.key_id)
    async with open_channel(args) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        found = await call_method(args, stub.Explain, request, TIMEOUT_S)
    table_console().print(view(found))
