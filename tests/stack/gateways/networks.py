"""Networks of their own for processes of a test, joined by a bridge, each of which can be cut off.

Needs root and Linux: network namespaces and pairs of virtual interfaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from tests.stack.install import apt_install


@dataclass(frozen=True)
class Network:
    """The network of one process. `address`: of its only interface beside loopback."""

    namespace: str
    interface: str
    address: str

    @property
    def wrap(self) -> tuple[str, ...]:
        """Begins the command line of a process that is to run there."""
        return ("ip", "netns", "exec", self.namespace)

    def cut(self) -> None:
        """Nothing comes or goes, and nobody is told."""
        _ip("link", "set", self.interface, "down")

    def heal(self) -> None:
        """Ends `cut`."""
        _ip("link", "set", self.interface, "up")


@dataclass(frozen=True)
class Networks:
    """Several networks. `host`: address of this process in all of them."""

    host: str
    each: list[Network]


@contextlib.contextmanager
def networks(count: int) -> Iterator[Networks]:
    """Makes networks, and removes them at the end."""
    if shutil.which("ip") is None:
        apt_install("iproute2")
    number = os.getpid() % 250
    bridge, subnet = f"mgb{number}", f"10.231.{number}"
    with contextlib.ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{subnet}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        made = []
        for i in range(count):
            name, address = f"mg{number}n{i}", f"{subnet}.{10 + i}"
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", name, "master", bridge)
            _ip("link", "set", name, "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            made.append(Network(name, name, address))
        yield Networks(f"{subnet}.1", made)


@contextlib.asynccontextmanager
async def relayed(host: str, port: int) -> AsyncIterator[None]:
    """Connections to `host`:`port` go to the same port of loopback."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(
                _copy(reader, there_writer), _copy(there_reader, writer), return_exceptions=True
            )

    server = await asyncio.start_server(relay, host, port)
    try:
        yield
    finally:
        server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
