"""The gateway's own gRPC services, as the console calls them.

The console reaches them through a Unix socket of the same server, in a folder that only this user
may enter: that works in every mode, and needs no certificate where `server.tls` asks for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from moegate.v1 import admin_pb2_grpc, batch_pb2_grpc, inference_pb2_grpc, usage_pb2_grpc

CALL_S = 20.0
"""Longest time of one RPC that a page makes."""
_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.default_authority", "moegate"),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True, slots=True)
class Calls:
    """Stubs of the services."""

    usage: usage_pb2_grpc.UsageServiceAsyncStub
    admin: admin_pb2_grpc.AdminServiceAsyncStub
    inference: inference_pb2_grpc.InferenceServiceAsyncStub
    batches: batch_pb2_grpc.BatchServiceAsyncStub


def local_address(folder: Path) -> str:
    """Returns the address of the socket in a folder, for server and channel."""
    return f"unix:{folder / 'console.sock'}"


def local_channel(address: str) -> grpc.aio.Channel:
    """Returns a channel to the gateway's own server."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


def calls_over(channel: grpc.aio.Channel) -> Calls:
    """Returns the stubs of a channel."""
    return Calls(
        usage=usage_pb2_grpc.UsageServiceStub(channel),
        admin=admin_pb2_grpc.AdminServiceStub(channel),
        inference=inference_pb2_grpc.InferenceServiceStub(channel),
        batches=batch_pb2_grpc.BatchServiceStub(channel),
    )
