"""Opens the connections of a link: a Unix socket on one machine.

Only these two functions, and those of `tls_transport.py`, know the transport. The socket stands in
a folder that only its user may enter, and whoever can connect is trusted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from gateway.link.connection import Connection

BACKLOG = 128


async def listen(path: Path, make: Callable[[], Connection]) -> asyncio.Server:
    """Accepts connections at a path, which must not exist. Raises OSError."""
    loop = asyncio.get_running_loop()
    # The mode is set before anyone can connect: a socket appears with that of the umask.
    before = os.umask(0o177)
    try:
        return await loop.create_unix_server(make, str(path), backlog=BACKLOG)
    finally:
        os.umask(before)


async def connect(path: Path, make: Callable[[], Connection]) -> Connection:
    """Connects to a path. Raises OSError."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_unix_connection(make, str(path))
    return connection
