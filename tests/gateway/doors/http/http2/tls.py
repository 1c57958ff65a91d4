"""A gateway whose HTTP port has TLS, and clients of HTTP/2 for it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import trustme

from gateway.config.gateway import GatewayConfig
from gateway.config.server import TlsConfig
from gateway.doors.http.listening.port import HttpPort
from tests.gateway.doors.http.plain import plain_port
from tests.http_serving import BEARER
from tests.integration.processes.test_health import write_pair
from tests.raw_http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    NO_TABLE,
    PREFACE,
    SETTINGS,
    RawConnection,
    frame,
    header,
)
from tests.serving import KEY, Serving


@dataclass(frozen=True, slots=True)
class TlsPort:
    """A port of the plain dialect with TLS. `authority`: a file with the certificate to trust."""

    served: Serving
    port: HttpPort
    client: httpx2.AsyncClient
    context: ssl.SSLContext
    authority: Path

    @property
    def url(self) -> str:
        """Address of the port."""
        return f"https://{self.port.address}"

    @contextlib.asynccontextmanager
    async def raw(self, first: bytes | None = None) -> AsyncIterator[RawConnection]:
        """A connection whose frames are written by hand. `first`: bytes to begin with; None: a
        correct preface."""
        host, _, port = self.port.address.rpartition(":")
        context = ssl.create_default_context(cafile=str(self.authority))
        context.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        connection = RawConnection(reader, writer)
        try:
            await connection.send(PREFACE + frame(SETTINGS, NO_TABLE) if first is None else first)
            yield connection
        finally:
            writer.transport.abort()


def tls_of(folder: Path) -> tuple[TlsConfig, Path]:
    """Files for TLS on 127.0.0.1, and the authority to trust."""
    authority = trustme.CA()
    write_pair(folder, authority)
    trusted = folder / "ca.crt"
    authority.cert_pem.write_to_path(str(trusted))
    return TlsConfig(cert=str(folder / "tls.crt"), key=str(folder / "tls.key")), trusted


@contextlib.asynccontextmanager
async def tls_port(
    settings: GatewayConfig,
    folder: Path,
    *,
    ready: bool = True,
    http2: bool = True,
    bounds: Mapping[str, Any] | None = None,
) -> AsyncIterator[TlsPort]:
    """A gateway, a port with TLS that speaks the plain dialect, and a client of HTTP/2. `http2`:
    whether the port offers it. `bounds`: further fields of `server`."""
    tls, trusted = tls_of(folder)
    tls = msgspec.structs.replace(tls, http2=http2)
    context = ssl.create_default_context(cafile=str(trusted))
    async with (
        plain_port(settings, ready=ready, tls=tls, **(bounds or {})) as (served, port, _),
        httpx2.AsyncClient(
            http2=True,
            verify=context,
            headers=BEARER,
            base_url=f"https://{port.address}",
            timeout=30,
        ) as client,
    ):
        yield TlsPort(served, port, client, context, trusted)


def head(
    stream: int, path: bytes, *further: tuple[bytes, bytes], method: bytes = b"POST", flags: int = 0
) -> bytes:
    """The head of a request without a key."""
    fields = (
        *((b":method", method), (b":scheme", b"https"), (b":path", path)),
        *((b":authority", b"gateway"), *further),
    )
    block = b"".join(header(name, value) for name, value in fields)
    return frame(HEADERS, block, flags=END_HEADERS | flags, stream=stream)


def get(stream: int, path: bytes) -> tuple[bytes]:
    """A request without a body and without a key."""
    return (head(stream, path, method=b"GET", flags=END_STREAM),)


def ask(stream: int, body: bytes, path: bytes = b"/plain/run") -> tuple[bytes, bytes]:
    """A request with the key."""
    key = (b"authorization", b"Bearer " + KEY.encode())
    return head(stream, path, key), frame(DATA, body, flags=END_STREAM, stream=stream)
