"""What the commands of keys, tenants and the audit log share: a call, and its answer as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from moegate.cli.channel import open_channel
from moegate.cli.command_runner import run_command
from moegate.v1 import admin_pb2_grpc

TIMEOUT_S = 60.0
if TYPE_CHECKING:
    Stub = admin_pb2_grpc.AdminServiceAsyncStub
Work = Callable[["Stub", argparse.Namespace], Awaitable[None]]


def run_with_stub(work: Work, args: argparse.Namespace) -> int:
    """Runs a command with a stub of AdminService. Returns the exit status."""

    async def call() -> None:
        async with open_channel(args) as channel:
            await work(admin_pb2_grpc.AdminServiceStub(channel), args)

    return run_command(call())


def print_json(*messages: Message, name: str = "") -> None:
    """Prints a message, or a list of messages under a name."""
    found = [MessageToDict(message, preserving_proto_field_name=True) for message in messages]
    print(json.dumps({name: found} if name else found[0], indent=2))
