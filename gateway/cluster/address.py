"""The address at which the other members of a cluster reach this one."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from urllib.parse import urlsplit

from gateway.config.server import ClusterConfig

POSTGRES_PORT = 5432


async def link_address(cluster: ClusterConfig, dsn: str) -> str:
    """Returns host:port of the link: the host of the configuration, or that from which this
    computer reaches the database. Raises OSError that says what to configure."""
    port = cluster.listen.rpartition(":")[2]
    if cluster.advertise is not None:
        return f"{cluster.advertise}:{port}"
    try:
        host = await _local_host(dsn)
    except (OSError, ValueError) as error:
        text = f"cluster.advertise: the address of this gateway is not known: {error}"
        raise OSError(f"{text}: give the host at which the others reach it") from None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def accounts_address(address: str) -> str:
    """Returns the address of the services of usage and administration, of that of a link."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + 1}"


def process_name() -> str:
    """Returns a name of this process that no other has, also not after a restart."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


async def _local_host(dsn: str) -> str:
    parts = urlsplit(dsn)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        parts.hostname or "localhost", parts.port or POSTGRES_PORT, type=socket.SOCK_DGRAM
    )
    family, _, _, _, address = found[0]
    # Of a datagram socket, connecting chooses the address and sends nothing.
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        host: str = probe.getsockname()[0]
    return host
