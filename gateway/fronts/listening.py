"""The ports that several fronts share.

The parent holds each port from before the first front starts: with SO_REUSEPORT, another gateway on
the same port would silently get a share of the connections.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def shared_port(listen: str, field: str) -> Iterator[str]:
    """Holds a port without listening, until the context exits. Yields the address with the number
    of the port, which a port of 0 leaves open. Raises OSError that names the field."""
    host, _, port = listen.rpartition(":")
    name = host.strip("[]")
    with contextlib.ExitStack() as stack:
        try:
            found = socket.getaddrinfo(
                name or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, address = found[0]
            # Alone first: this fails where anyone listens already.
            with socket.socket(family, socket.SOCK_STREAM) as alone:
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind(address)
                number = alone.getsockname()[1]
            held = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind((address[0], number, *address[2:]))
            if sys.platform == "linux":
                # Until the first front listens, another parent could do the same. It cannot bind
                # the same name in the abstract space of Unix sockets.
                name_of_port = stack.enter_context(socket.socket(socket.AF_UNIX))
                name_of_port.bind(f"\0moegate/{address[0]}/{number}")
        except OSError as error:
            text = f"{field}: cannot listen on {listen}: {error.strerror or error}"
            raise OSError(text) from None
        yield f"{host}:{number}"
