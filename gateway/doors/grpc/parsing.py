"""Turns the raw bytes of a request into a message, within bounds.

gRPC passes every request on as raw bytes, still compressed. They are inflated and parsed here,
after the key is known, so that an unknown caller cannot make the gateway inflate or parse anything.
Every RPC of every service passes through `parse_message`.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.slices import in_one_slice, in_slices
from gateway.doors.entry.inflate import TooLarge, inflated
from gateway.doors.grpc import errors
from gateway.doors.grpc.rpc_context import REQUEST_BYTES
from gateway.translation.wire_scan import BoundExceeded, NotWireFormat, scan
from gateway.translation.wire_shapes import shape_of

M = TypeVar("M", bound=Message)


async def parse_message(
    message_type: type[M], raw: bytes, max_bytes: int, elements: ElementLimitsConfig
) -> M:
    """Returns the message of `raw`, which may be compressed with gzip or deflate.

    `max_bytes`: limit on the inflated message; `elements`: limits on what it holds, checked before
    it is parsed. Raises RpcError (INVALID_ARGUMENT) if the message exceeds one or is no message of
    this type.
    """
    try:
        plain = await inflated(raw, max_bytes)
        if len(plain) > max_bytes:
            raise TooLarge(f"{len(plain)} bytes", max_bytes)
    except TooLarge as error:
        # Not RESOURCE_EXHAUSTED, which clients send again.
        raise errors.invalid([("request", str(error))], "MESSAGE_TOO_LARGE") from None
    REQUEST_BYTES.set(len(plain))
    try:
        await in_slices(scan(plain, shape_of(message_type), elements))
        return await in_one_slice(lambda: message_type.FromString(plain))
    except BoundExceeded as error:
        fault = (error.field or "request", error.description)
        raise errors.invalid([fault], "TOO_MANY_ELEMENTS") from None
    except (DecodeError, NotWireFormat):
        name = message_type.DESCRIPTOR.full_name
        text = f"{len(plain)} bytes that are no {name}, as is or compressed with gzip or deflate"
        raise errors.invalid([("request", text)], "UNDECODABLE") from None
