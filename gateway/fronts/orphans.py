"""The end of a child process whose supervisor has ended, in whatever way.

The supervisor holds the other end of the child's standard input, and the system closes it.
"""

from __future__ import annotations

import asyncio
import sys


async def until_orphaned() -> None:
    """Returns when the standard input of this process has ended."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while await reader.read(4096):
            pass
    finally:
        transport.close()
