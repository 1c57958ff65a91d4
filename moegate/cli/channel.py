"""The gRPC channel of every command that calls a gateway: address, key, TLS and errors.

No other module of the command line knows gRPC; the commands use the generated stubs on a channel
of this module.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from moegate.cli.command_runner import CommandFailed

KEY_VARIABLE = "MOEGATE_API_KEY"
UNREACHED = ("failed to connect", "DNS resolution failed")
"""How grpc core's messages begin where no server was reached."""
RpcError = grpc.aio.AioRpcError
Message = TypeVar("Message")
Answer = TypeVar("Answer")


def add_channel_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the address of the gateway, the caller's key and the TLS files."""
    parser.add_argument(
        "--target", default="127.0.0.1:50051", help="address of the server (%(default)s)"
    )
    parser.add_argument("--key", help=f"API key; absent: the environment variable {KEY_VARIABLE}")
    parser.add_argument("--tls", action="store_true", help="call over TLS")
    parser.add_argument(
        "--ca", type=Path, metavar="PEM", help="certificates to trust (default: the system's)"
    )
    parser.add_argument("--cert", type=Path, metavar="PEM", help="client certificate, for mTLS")
    parser.add_argument(
        "--cert-key", type=Path, metavar="PEM", help="private key of the client certificate"
    )


def call_metadata(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """The metadata that carries the key; empty without a key. Raises CommandFailed."""
    key = args.key or os.environ.get(KEY_VARIABLE, "")
    if not key.isascii() or (key and not key.isprintable()):
        raise CommandFailed("the key holds characters that no key has: is it whole, on one line?")
    return (("authorization", f"Bearer {key}"),) if key else ()


@contextlib.asynccontextmanager
async def open_channel(args: argparse.Namespace) -> AsyncIterator[grpc.aio.Channel]:
    """Opens a channel to the gateway, in plain text or over TLS.

    A failed call inside the context, or a TLS file that cannot be used, becomes a CommandFailed.
    """
    async with _channel(args) as channel:
        try:
            yield channel
        except RpcError as error:
            raise CommandFailed(error_text(error)) from error


def _channel(args: argparse.Namespace) -> grpc.aio.Channel:
    if not args.tls:
        if args.ca or args.cert or args.cert_key:
            raise CommandFailed("--ca, --cert and --cert-key are for TLS: give --tls too")
        return grpc.aio.insecure_channel(args.target)
    if (args.cert is None) != (args.cert_key is None):
        raise CommandFailed("--cert and --cert-key go together")
    try:
        ca, key, cert = (f and f.read_bytes() for f in (args.ca, args.cert_key, args.cert))
    except OSError as error:
        raise CommandFailed(f"{error.filename} cannot be read: {error.strerror}") from None
    return grpc.aio.secure_channel(args.target, grpc.ssl_channel_credentials(ca, key, cert))


async def call_method(
    args: argparse.Namespace,
    method: grpc.aio.UnaryUnaryMultiCallable[Message, Answer],
    request: Message,
    timeout_s: float,
) -> Answer:
    """Calls a method that has one answer. Raises CommandFailed or RpcError."""
    return await method(request, metadata=call_metadata(args), timeout=timeout_s)


def is_unavailable(error: RpcError) -> bool:
    """Whether the gateway could not be reached, or the connection to it was lost."""
    return error.code() is grpc.StatusCode.UNAVAILABLE


def error_text(error: RpcError) -> str:
    """The status, its message, and what the google.rpc details advise."""
    text = f"{error.code().name}: {error.details()}"
    if (error.details() or "").startswith(UNREACHED):
        return f"{text}\ndoes a gateway listen there? --target names its address"
    try:
        # The function takes any call; its annotation knows only the synchronous ones.
        status = rpc_status.from_call(error)  # type: ignore[arg-type, unused-ignore]
    except (ValueError, DecodeError):
        return text  # the details are not the gateway's: a proxy in between made them
    for detail in status.details if status else ():
        retry, info = error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
        if detail.Unpack(retry):
            text += f"\ntry again in {retry.retry_delay.ToMilliseconds() / 1000:.1f} s"
        elif detail.Unpack(info) and info.reason == "PARTIAL_OUTPUT":
            text += "\nthe text above is not the whole answer"
        elif info.reason == "UNAUTHENTICATED":
            text += f"\ngive the key with --key or in {KEY_VARIABLE}"
    return text
