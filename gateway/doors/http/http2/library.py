"""The library (`h2`) that knows the protocol, with the settings that a server of ours announces."""

from __future__ import annotations

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

from gateway.doors.http.http2.frames import MAX_FRAME_BYTES
from gateway.doors.http.http2.header_blocks import PlainEncoder

HEADER_BYTES = 40_960
"""Largest list of headers: above what `limits.metadata_bytes` may be, which the door checks."""
STREAM_WINDOW_BYTES = 262_144
WINDOW_BYTES = 1_048_576
"""Windows for bodies: of a request, and of all requests of a connection."""
CLOSED_STREAMS = 256
"""Streams that the library remembers after their end."""
FIRST_WINDOW_BYTES = 65_535
"""Window of every new connection."""

_CONFIGURATION = H2Configuration(
    client_side=False,
    header_encoding=None,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)
"""The headers of answers are the gateway's own, in lower case."""


class _Library(H2Connection):
    MAX_CLOSED_STREAMS = CLOSED_STREAMS
    DEFAULT_MAX_HEADER_LIST_SIZE = HEADER_BYTES
    DEFAULT_MAX_INBOUND_FRAME_SIZE = MAX_FRAME_BYTES


def new_library(max_streams: int) -> H2Connection:
    """The protocol of a new connection, which has its first frames to send. `max_streams`: most
    requests at once."""
    library = _Library(_CONFIGURATION)
    library.encoder = PlainEncoder()
    library.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: max_streams,
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
            SettingCodes.MAX_HEADER_LIST_SIZE: HEADER_BYTES,
            SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
        },
    )
    library.initiate_connection()
    library.increment_flow_control_window(WINDOW_BYTES - FIRST_WINDOW_BYTES)
    return library
