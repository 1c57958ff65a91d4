"""Turns the raw bytes of a request into a message, within bounds.

gRPC passes every request on as raw bytes, still compressed. They are inflated and parsed here,
after the key is known, so that an unknown caller cannot make the gateway inflate or parse anything.
Every RPC of every service passes through `parse_message`.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.slices import in_one_slice, in_slices
from gateway.doors.grpc import errors
from gateway.doors.grpc.rpc_context import REQUEST_BYTES
from gateway.translation.wire_scan import BoundExceeded, NotWireFormat, scan
from gateway.translation.wire_shapes import shape_of

M = TypeVar("M", bound=Message)

_COMPRESSED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""First bytes of gzip and of deflate streams. gRPC does not tell which messages are compressed.
No message begins like gzip (0x1f is a tag of wire type 7); the rest of one that begins like deflate
fails the stream's checksum."""
_AT_ONCE_BYTES = 256 * 1024
"""Bytes that are inflated on the event loop. The rest is inflated in a thread: 16 MB take 40 ms."""
_ANY_WRAPPER = zlib.MAX_WBITS | 32
"""Makes zlib accept gzip and deflate streams."""


async def parse_message(
    message_type: type[M], raw: bytes, max_bytes: int, elements: ElementLimitsConfig
) -> M:
    """Returns the message of `raw`, which may be compressed with gzip or deflate.

    `max_bytes`: limit on the inflated message; `elements`: limits on what it holds, checked before
    it is parsed. Raises RpcError (INVALID_ARGUMENT) if the message exceeds one or is no message of
    this type.
    """
    plain = await inflated(raw, max_bytes)
    REQUEST_BYTES.set(len(plain))
    if len(plain) > max_bytes:
        raise _too_large(f"{len(plain)} bytes", max_bytes)
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


async def inflated(raw: bytes, max_bytes: int) -> bytes:
    """Returns the content of a gzip or deflate stream, and other bytes unchanged.

    Never inflates more than `max_bytes`. Raises RpcError (INVALID_ARGUMENT) if there is more.
    """
    if not raw.startswith(_COMPRESSED):
        return raw
    stream = zlib.decompressobj(_ANY_WRAPPER)
    try:
        content = stream.decompress(raw, min(_AT_ONCE_BYTES, max_bytes))
        if not stream.eof:
            # One byte beyond the limit tells a message that is too large from one that just fits.
            left_bytes = max_bytes - len(content) + 1
            tail = stream.unconsumed_tail
            content += await asyncio.to_thread(stream.decompress, tail, left_bytes)
    except zlib.error:
        return raw
    if len(content) > max_bytes:
        raise _too_large(f"{len(raw)} bytes, which inflate to more", max_bytes)
    return content if stream.eof and not stream.unused_data else raw


def _too_large(size: str, max_bytes: int) -> errors.RpcError:
    """INVALID_ARGUMENT: the request is larger than the caller may send. `size`: what was sent.
    Not RESOURCE_EXHAUSTED, which clients send again."""
    text = f"{size}: at most {max_bytes} may be sent here: send less, or ask for a higher limit"
    return errors.invalid([("request", text)], "MESSAGE_TOO_LARGE")
