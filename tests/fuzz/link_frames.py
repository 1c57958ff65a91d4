"""Frames between the processes of a gateway, their bytes changed and cut anywhere."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from gateway.link.wire.connection import Connection
from gateway.link.wire.messages import Call, Kind, encode, encode_value
from gateway.link.wire.resume import FrontCopy
from scheduler.contract import Progress
from scheduler.port import RequestEnded
from tests.fuzz.mutations import cut, scratched
from tests.gateway.scheduling.scheduling_made import attempt_end, submission

WORDS = (
    b"\xc0", b"\xc1", b"\x00", b"\xff", b"\xcf" + b"\xff" * 8, b"\xd3" + b"\x80" + b"\x00" * 7,
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xa1\xff",
    b"\xcb\x7f\xf8" + b"\x00" * 6, b"\x91" * 3000, b"\x01", b"\x03", b"\x0a",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SentFrames:
    """Bytes of frames, in pieces."""

    pieces: list[bytes]


@st.composite
def frames(draw: st.DrawFn) -> SentFrames:
    """Frames with lengths that mostly fit."""
    messages: list[Any] = [
        (Kind.SUBMIT, 1, submission("r", prefix_blocks=(1, 2**64 - 1))),
        (Kind.PROGRESS, 0, Progress(request_id="r", attempt=1, output_tokens=2)),
        (Kind.ATTEMPT_END, 0, attempt_end("r")),
        (
            Kind.REQUEST_ENDED,
            0,
            RequestEnded(request_id="r", used_tokens=1, keep_idempotency_key=False),
        ),
        (Kind.FRONT_COPY, 0, FrontCopy(front="a", term=1, progress=((1, 1, 2),), over=(3,))),
        (Kind.CALL, 7, Call(name="echo", argument=encode_value(5))),
        (Kind.RETURN, 7, encode_value("x")),
    ]
    sent = b""
    for _ in range(draw(st.integers(1, 3))):
        chosen = draw(st.lists(st.sampled_from(messages), max_size=4))
        frame = draw(scratched(encode(chosen), WORDS)) if draw(st.booleans()) else encode(chosen)
        length = draw(st.sampled_from([len(frame)] * 6 + [0, len(frame) + 1, 2**32 - 1]))
        sent += struct.pack("!I", length) + frame
    return SentFrames(draw(cut(sent)))


def check_frames(sent: SentFrames) -> None:
    """Every message is one, or the connection ends, with a reason; nothing is kept afterwards."""

    async def receive() -> None:
        lost: list[str] = []

        def received(kind: Kind, number: int, payload: object) -> None:
            assert kind not in (Kind.CALL, Kind.RETURN, Kind.FAIL)
            assert isinstance(number, int)

        connection = Connection(received, {"echo": (int, lambda value: value)}, lost.append)
        for piece in sent.pieces:
            if not connection.lost:
                connection.data_received(piece)
        assert lost == ([connection.lost] if connection.lost else [])
        assert "could not be handled" not in connection.lost, connection.lost

    asyncio.run(receive())
