"""What goes out on a connection of HTTP/2. Streams share it in turns of one frame, as far as their
windows and the socket have room."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hyperframe.frame import GoAwayFrame

from gateway.doors.http.http2.frames import MAX_FRAME_BYTES
from gateway.doors.http.http2.stream import Http2Stream


class Output:
    """The sending side of a connection, as its streams see it (`stream.Sender`).

    Attributes:
        transport: the socket; None: there is none yet, or none any more.
        is_full: whether the socket is full.
        is_over: whether nothing more is sent.
    """

    def __init__(self, library: H2Connection, sent: Callable[[int], None]) -> None:
        """`sent`: called with the number of frames of output that have been sent."""
        self._library = library
        self._sent = sent
        self._loop = asyncio.get_running_loop()
        self._ready: dict[int, Http2Stream] = {}
        """Streams that have output and, as far as is known, room for it; the next one first."""
        self._flushes_later = False
        self.transport: asyncio.Transport | None = None
        self.is_full = self.is_over = False

    # --- for the streams

    def send_head(self, stream: Http2Stream, headers: list[tuple[bytes, bytes]]) -> None:
        """Sends the headers of an answer, or of an interim one."""
        if stream.is_open and not self.is_over:
            with contextlib.suppress(ProtocolError):  # reset by the client a moment ago
                self._library.send_headers(stream.stream_id, headers)
            self._flush_later()

    def send_output(self, stream: Http2Stream) -> None:
        """Sends of the stream's output what its windows and the socket have room for."""
        self._ready[stream.stream_id] = stream
        self.pump()

    def abort(self, stream: Http2Stream) -> None:
        """Ends the stream at once, and nothing else."""
        self.reset(stream, ErrorCodes.CANCEL)

    def take_in(self, stream: Http2Stream) -> None:
        """Opens the window of the stream by the bytes of its body that were kept shut."""
        size, stream.shut_bytes = stream.shut_bytes, 0
        if size and not self.is_over:
            self._library.acknowledge_received_data(size, stream.stream_id)
            self._flush_later()

    def extra_info(self, name: str) -> Any:
        """As `get_extra_info` of the transport."""
        return None if self.transport is None else self.transport.get_extra_info(name)

    # --- for the connection

    def reset(self, stream: Http2Stream, code: ErrorCodes) -> None:
        """Tells the client that the stream is over."""
        if stream.is_open and not self.is_over:
            with contextlib.suppress(ProtocolError):  # reset by the client a moment ago
                self._library.reset_stream(stream.stream_id, code)
            self._flush_later()
        stream.lost()

    def forget(self, stream: Http2Stream) -> None:
        """The stream has ended."""
        self._ready.pop(stream.stream_id, None)
        self.take_in(stream)

    def room_for(self, streams: Iterable[Http2Stream]) -> None:
        """The windows of these streams may have room."""
        self._ready |= {each.stream_id: each for each in streams if each.output}
        self.pump()

    def pump(self) -> None:
        """Sends one frame of each stream in turn, as long as there is room."""
        while self._ready and not self.is_full and not self.is_over:
            stream = self._ready.pop(next(iter(self._ready)))
            try:
                if not stream.is_open or not stream.has_output or not self._send_frame(stream):
                    continue  # without room: until its window opens
            except ProtocolError:
                continue  # reset by the client a moment ago
            self._sent(1)
            if stream.has_output:
                self._ready[stream.stream_id] = stream
            else:
                stream.all_sent()

    def _send_frame(self, stream: Http2Stream) -> bool:
        """Sends a frame of output. False: its windows have no room."""
        library, stream_id = self._library, stream.stream_id
        piece = b""
        if stream.output:
            room = library.local_flow_control_window(stream_id)
            if room <= 0:
                return False
            piece = stream.piece(min(room, library.max_outbound_frame_size))
        stream.has_ended = stream.ends and not stream.output
        library.send_data(stream_id, piece, end_stream=stream.has_ended)
        if len(piece) >= MAX_FRAME_BYTES:
            self.flush()  # so that a full socket stops the next one
        else:
            self._flush_later()
        return True

    def _flush_later(self) -> None:
        """One write for all that is sent in this turn of the loop."""
        if not self._flushes_later:
            self._flushes_later = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Hands to the socket what the library has made."""
        self._flushes_later = False
        data = self._library.data_to_send()
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def say_goodbye(self, last_id: int, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Sends GOAWAY. By hand: for the library it would end all streams at once."""
        self.flush()
        if self.transport is not None and not self.transport.is_closing():
            frame = GoAwayFrame(0, last_stream_id=last_id, error_code=code)
            self.transport.write(frame.serialize())
