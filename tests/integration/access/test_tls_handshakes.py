"""TLS handshakes of anybody with the gRPC door: many at once, cut off, resumed, amid a renewal."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from pathlib import Path

import grpc
import msgspec
import pytest
import trustme

from gateway.config.server import TlsConfig
from gateway.server import running_gateway
from tests import serving
from tests.integration.processes.test_server import (
    models,
    refused,
    serve_command,
    with_server,
    write_pair,
)
from tests.raw_http2 import PREFACE, SETTINGS, WAIT_S, frame

BURSTS, AT_ONCE = 400, 20
"""Where every handshake replaces the TLS context of grpc core, one connection in about 3,000 ends
the process."""
FLOOD_S = 4.0
"""Bound on the handshakes that are cut, for a machine that is busy."""
HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01" + bytes(600)
RESET = struct.pack("ii", 1, 0)
TLS = TlsConfig(cert="server.crt", key="server.key")


def cut_handshakes(address: str) -> None:
    """Begins up to BURSTS times AT_ONCE handshakes and resets their connections. Ends early where
    nobody listens any more."""
    host, _, port = address.rpartition(":")
    end_s = time.monotonic() + FLOOD_S
    with contextlib.suppress(ConnectionError):
        for _ in range(BURSTS):
            if time.monotonic() > end_s:
                break
            with contextlib.ExitStack() as burst:
                for _ in range(AT_ONCE):
                    connection = burst.enter_context(socket.create_connection((host, int(port))))
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    connection.sendall(HALF_A_HELLO)


async def test_many_handshakes_at_once_do_not_end_the_gateway(tmp_path: Path) -> None:
    authority = trustme.CA()
    write_pair(tmp_path, authority)
    config = serving.config(pools=[serving.pool(["http://127.0.0.1:9"])])
    path = tmp_path / "moegate.yaml"
    path.write_bytes(msgspec.yaml.encode(with_server(config, tls=TLS)))
    async with serve_command(path) as (_, address):
        await asyncio.to_thread(cut_handshakes, address)
        await models(address, grpc.ssl_channel_credentials(authority.cert_pem.bytes()))


def connect(
    address: str, trusted: ssl.SSLContext, earlier: ssl.SSLSession | None
) -> tuple[bool, ssl.SSLSession]:
    """Connects once. Returns whether the session `earlier` was resumed, and the session that the
    gateway gave for the next time. Raises ssl.SSLError."""
    host, _, port = address.rpartition(":")
    raw = socket.create_connection((host, int(port)), timeout=WAIT_S)
    with trusted.wrap_socket(raw, server_hostname="localhost", session=earlier) as connection:
        connection.sendall(PREFACE + frame(SETTINGS))
        connection.recv(9)
        assert connection.session is not None
        return bool(connection.session_reused), connection.session


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    trusted = ssl.create_default_context()
    trusted.set_alpn_protocols(["h2"])
    authority.configure_trust(trusted)
    return trusted


async def test_the_tls_context_stays_until_a_file_has_changed(tmp_path: Path) -> None:
    """A context resumes the sessions that it gave, and no other does."""
    first, second = trustme.CA(), trustme.CA()
    write_pair(tmp_path, first)
    config = serving.config(pools=[serving.pool(["http://127.0.0.1:9"])])
    async with running_gateway(with_server(config, tls=TLS), tmp_path) as gateway:
        trusted = trusting(first)

        async def resumes(earlier: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession]:
            return await asyncio.to_thread(connect, gateway.address, trusted, earlier)

        _, earlier = await resumes(None)
        for _ in range(5):
            is_resumed, earlier = await resumes(earlier)
            assert is_resumed
        certificates = gateway.front.certificates
        assert certificates is not None
        write_pair(tmp_path, second)
        assert certificates.renew()
        with pytest.raises(ssl.SSLCertVerificationError):
            await resumes(earlier)
        second_pem = grpc.ssl_channel_credentials(second.cert_pem.bytes())
        await models(gateway.address, second_pem)
        write_pair(tmp_path, first)
        assert certificates.renew()
        is_resumed, _ = await resumes(earlier)
        assert not is_resumed
        assert await refused(gateway.address, second_pem) is grpc.StatusCode.UNAVAILABLE
