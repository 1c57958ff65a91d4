"""Files of offline jobs: what callers upload, and what their jobs leave behind.

An uploaded file lies in the ledger's database in chunks, so that no process ever holds it whole and
every gateway at the database can run its job. Files of results hold no bytes of their own: they are
read from the results of their job.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

import msgspec

CHUNK_BYTES = 256 * 1024
"""Bytes of each chunk of a file but the last."""
FILE_PREFIX = "file-"


class FileKind(enum.StrEnum):
    """Where the bytes of a file come from."""

    LINES = "lines"
    """Uploaded: one JSON object a line."""
    FRAMES = "frames"
    """Messages of SubmitBatch, each after its length in 4 bytes, the highest first. Not listed."""
    OUTPUT = "output"
    """The results of a job that succeeded."""
    ERRORS = "errors"
    """The results of a job that failed."""


class FileInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A file. Times are Unix microseconds. `job_id`: the job whose results it holds; empty: it was
    uploaded. `is_complete`: False while it is uploaded."""

    file_id: str
    tenant: str
    key_id: str
    kind: FileKind
    purpose: str
    filename: str
    is_complete: bool
    size_bytes: int
    job_id: str
    created_unix_us: int
    expires_unix_us: int


class FileDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A file to be uploaded. `keep_s`: seconds until it is deleted; None: the gateway's figure."""

    kind: FileKind
    purpose: str = ""
    filename: str = ""
    keep_s: float | None = None


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a file. `next_cursor`: where the next part begins; None: this is the last one."""

    content: bytes
    next_cursor: int | None


def chunk_numbers(start: int, size: int) -> range:
    """The chunks that hold `size` bytes from byte `start` on."""
    return range(start // CHUNK_BYTES, (start + max(1, size) - 1) // CHUNK_BYTES + 1)


class Chunks:
    """Cuts what arrives into chunks of `CHUNK_BYTES`. Holds less than two of them."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._next = 0
        self.size_bytes = 0

    def add(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yields the chunks that are whole now, with their numbers."""
        self.size_bytes += len(data)
        self._rest += data
        while len(self._rest) >= CHUNK_BYTES:
            yield self._next, bytes(self._rest[:CHUNK_BYTES])
            del self._rest[:CHUNK_BYTES]
            self._next += 1

    def end(self) -> Iterator[tuple[int, bytes]]:
        """Yields the last chunk, if there is one."""
        if self._rest:
            yield self._next, bytes(self._rest)
            self._rest.clear()
