"""`moegate` as the version before spoke on the link between gateways: a real process, in which what
the present version has added is left out of every frame.

    python -m tests.stack.gateways.version_before serve FILE

To be written anew with each version of the messages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gateway.link.wire import messages
from gateway.link.wire.messages import Kind, LinkMessage

ADDED_KINDS = (Kind.KEPT, Kind.FRONT_COPY, Kind.FORGET_FRONT)
ADDED_FIELDS: tuple[str, ...] = ()


def without(value: Any) -> Any:
    """Leaves the added fields out."""
    if isinstance(value, dict):
        return {name: without(each) for name, each in value.items() if name not in ADDED_FIELDS}
    return [without(each) for each in value] if isinstance(value, list) else value


def speak_as_before() -> None:
    """Before any other module of the link is imported."""
    assert messages.WIRE_VERSION == 4, "leave out what the newest version has added instead"
    assert "gateway.link.wire.connection" not in sys.modules
    encode, encode_value, decode = messages.encode, messages.encode_value, messages.decode

    def old_encode(messages: Sequence[LinkMessage]) -> bytes:
        known = [message for message in messages if message[0] not in ADDED_KINDS]
        return msgspec.msgpack.encode(without(msgspec.msgpack.decode(encode(known))))

    def old_encode_value(value: Any) -> msgspec.Raw:
        plain = msgspec.msgpack.decode(encode_value(value))
        return msgspec.Raw(msgspec.msgpack.encode(without(plain)))

    def old_decode(frame: bytes | memoryview) -> Iterable[LinkMessage]:
        return (message for message in decode(frame) if message[0] not in ADDED_KINDS)

    messages.WIRE_VERSION = 3
    messages.encode = old_encode
    messages.encode_value = old_encode_value
    messages.decode = old_decode


if __name__ == "__main__":
    speak_as_before()
    from moegate.cli.main import main

    sys.exit(main())
