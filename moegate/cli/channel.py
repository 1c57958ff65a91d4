"""What every command that calls a gateway shares: where it is, with which key, what went wrong."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

KEY_VARIABLE = "MOEGATE_API_KEY"
INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as shells count."""


class CannotAsk(Exception):
    """There is nothing to send, or nobody to send it to; the text says what to mend."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares where the gateway is, and who calls."""
    parser.add_argument(
        "--target", default="127.0.0.1:50051", help="address of the server (%(default)s)"
    )
    parser.add_argument("--key", help=f"API key; absent: the environment variable {KEY_VARIABLE}")
    parser.add_argument("--tls", action="store_true", help="call over TLS")
    parser.add_argument("--ca", type=Path, metavar="PEM", help="whom to trust (the system's)")
    parser.add_argument("--cert", type=Path, metavar="PEM", help="client certificate, for mTLS")
    parser.add_argument("--cert-key", type=Path, metavar="PEM", help="its private key")


def metadata(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """The key as the gateway wants it. Raises CannotAsk."""
    key = args.key or os.environ.get(KEY_VARIABLE, "")
    if not key.isascii() or (key and not key.isprintable()):
        raise CannotAsk("the key holds characters that no key has: is it whole, on one line?")
    return (("authorization", f"Bearer {key}"),) if key else ()


def channel(args: argparse.Namespace) -> grpc.aio.Channel:
    """To the gateway, in plain text or over TLS. Raises CannotAsk."""
    if not args.tls:
        if args.ca or args.cert or args.cert_key:
            raise CannotAsk("--ca, --cert and --cert-key are for TLS: give --tls too")
        return grpc.aio.insecure_channel(args.target)
    if (args.cert is None) != (args.cert_key is None):
        raise CannotAsk("--cert and --cert-key go together")
    try:
        ca, key, cert = (f and f.read_bytes() for f in (args.ca, args.cert_key, args.cert))
    except OSError as error:
        raise CannotAsk(f"{error.filename} cannot be read: {error.strerror}") from None
    return grpc.aio.secure_channel(args.target, grpc.ssl_channel_credentials(ca, key, cert))


def explain(error: grpc.aio.AioRpcError) -> str:
    """What went wrong and what to do, from the message and the google.rpc details."""
    text = f"{error.code().name}: {error.details()}"
    try:
        # The function takes any call; its annotation knows only the synchronous ones.
        status = rpc_status.from_call(error)  # type: ignore[arg-type, unused-ignore]
    except (ValueError, DecodeError):
        return text  # details of another making, from a proxy in between
    for detail in status.details if status else ():
        retry, info = error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
        if detail.Unpack(retry):
            text += f"\ntry again in {retry.retry_delay.ToMilliseconds() / 1000:.1f} s"
        elif detail.Unpack(info) and info.reason == "PARTIAL_OUTPUT":
            text += "\nthe text above is not the whole answer"
        elif info.reason == "UNAUTHENTICATED":
            text += f"\ngive the key with --key or in {KEY_VARIABLE}"
    return text
