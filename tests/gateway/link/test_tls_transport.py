"""The link over TLS: members get in, others are refused in words, and nobody costs much before."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.problems import ConfigError
from gateway.config.server import ClusterTlsConfig
from gateway.link.remote_scheduler import RemoteScheduler
from gateway.link.wire import messages, tls_transport
from gateway.link.wire.certificates import LinkCertificates
from gateway.link.wire.connection import CallFailed, Connection, LinkLost
from gateway.link.wire.messages import Kind
from gateway.link.wire.tls_transport import LinkServer, bound, connect_tls
from tests.gateway.link.pipes import Joined
from tests.gateway.scheduling.scheduling_made import config, running, settings_of

WAIT_S = 30.0
AUTHORITY = trustme.CA()


def certificates(
    folder: Path, name: str, issuer: trustme.CA = AUTHORITY, trusted: trustme.CA = AUTHORITY
) -> LinkCertificates:
    """Files of a gateway whose certificate is for a name."""
    folder.mkdir(exist_ok=True)
    write(folder, name, issuer, trusted)
    tls = ClusterTlsConfig(cert="tls.crt", key="tls.key", ca="ca.crt")
    return LinkCertificates(tls, folder)


def write(folder: Path, name: str, issuer: trustme.CA, trusted: trustme.CA) -> None:
    pair = issuer.issue_cert(name)
    pair.private_key_pem.write_to_path(folder / "tls.key")
    (folder / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in pair.cert_chain_pems))
    trusted.cert_pem.write_to_path(folder / "ca.crt")


@pytest.fixture
def member(tmp_path: Path) -> LinkCertificates:
    """Files of a member."""
    return certificates(tmp_path / "member", "moegate")


@contextlib.asynccontextmanager
async def serving(
    files: LinkCertificates, make: Callable[[], Connection] | None = None
) -> AsyncIterator[LinkServer]:
    server = LinkServer(await bound("127.0.0.1:0"), files, make or echo)
    try:
        yield server
    finally:
        server.close()
        await asyncio.sleep(0)


def echo() -> Connection:
    return Connection(ignored, {"echo": (bytes, lambda value: value)}, lambda reason: None)


def plain() -> Connection:
    return Connection(ignored, {}, lambda reason: None)


def ignored(kind: Kind, number: int, payload: Any) -> None:
    raise AssertionError(f"{kind} {number} {payload}")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def works(address: str, files: LinkCertificates) -> None:
    connection = await connect_tls(address, files, plain)
    assert await connection.call("echo", b"x" * 300_000, bytes) == b"x" * 300_000
    connection.close("over")


async def test_members_talk(member: LinkCertificates) -> None:
    async with serving(member) as server:
        await asyncio.gather(*(works(server.address, member) for _ in range(5)))


async def test_a_front_joins_over_tls(member: LinkCertificates) -> None:
    two = Joined(running(settings_of(config())))
    async with serving(member, two.host.connection) as server:
        remote = RemoteScheduler(clock=two.made.clock, handlers={}, on_fleet=lambda view: None)
        connection = await connect_tls(server.address, member, remote.new_connection)
        assert await remote.join(1, connection) == b"setting"
        assert remote.fleet == two.made.local.fleet
        two.host.close()


async def test_another_version_is_refused_in_words(
    member: LinkCertificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = Joined(running(settings_of(config())))
    async with serving(member, two.host.connection) as server:
        remote = RemoteScheduler(clock=two.made.clock, handlers={}, on_fleet=lambda view: None)
        connection = await connect_tls(server.address, member, remote.new_connection)
        version = messages.WIRE_VERSION + 2
        monkeypatch.setattr("gateway.link.remote_scheduler.WIRE_VERSION", version)
        with pytest.raises(CallFailed, match=f"speaks version {version}.*one version at a time"):
            await remote.join(1, connection)
        connection.close("over")


async def refused(address: str, files: LinkCertificates) -> str:
    """What a gateway is told that is refused, at the handshake or soon after."""
    try:
        connection = await connect_tls(address, files, plain)
        async with asyncio.timeout(WAIT_S):
            await connection.call("echo", b"", bytes)
    except (OSError, LinkLost) as error:
        return str(error)
    raise AssertionError("it got in")


async def test_a_certificate_of_another_authority_does_not_let_in(
    tmp_path: Path, member: LinkCertificates, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = certificates(tmp_path / "stranger", "moegate", issuer=trustme.CA())
    async with serving(member) as server:
        # The reset of a connection may overtake the alert.
        told = await refused(server.address, stranger)
        assert "refuses the certificate" in told or "reset" in told
        await until(lambda: "the link refused a connection of 127.0.0.1" in caplog.text)
    assert "its certificate is refused" in caplog.text


async def test_another_certificate_of_the_same_authority_does_not_let_in(
    tmp_path: Path, member: LinkCertificates, caplog: pytest.LogCaptureFixture
) -> None:
    other = certificates(tmp_path / "other", "shop.example.com")
    async with serving(member) as server:
        await refused(server.address, other)
        await until(lambda: "is not for moegate (cluster.tls.member)" in caplog.text)
    assert "its names: shop.example.com" in caplog.text


async def test_a_server_that_is_no_member_is_refused(
    tmp_path: Path, member: LinkCertificates
) -> None:
    other = certificates(tmp_path / "other", "shop.example.com")
    async with serving(other) as server:
        assert "its certificate is refused: Hostname mismatch" in await refused(
            server.address, member
        )
    stranger = certificates(tmp_path / "stranger", "moegate", issuer=trustme.CA())
    async with serving(stranger) as server:
        assert "its certificate is refused" in await refused(server.address, member)


async def test_who_shows_no_certificate_does_not_get_in(member: LinkCertificates) -> None:
    made: list[Connection] = []

    def make() -> Connection:
        made.append(echo())
        return made[-1]

    async with serving(member, make) as server:
        host, port = server.address.split(":")
        context = ssl.create_default_context(cadata=AUTHORITY.cert_pem.bytes().decode())
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(
                host, int(port), ssl=context, server_hostname="moegate"
            )
            writer.write(b"\0" * 100)
            assert await reader.read() == b""
            writer.close()
    assert made == []


async def test_a_closed_port_is_told(member: LinkCertificates) -> None:
    async with serving(member) as server:
        address = server.address
    with pytest.raises(OSError, match=r"127\.0\.0\.1:\d+: "):
        await connect_tls(address, member, plain)


async def test_a_port_that_is_taken_is_named(member: LinkCertificates) -> None:
    async with serving(member) as server:
        with pytest.raises(OSError, match=r"cluster\.listen: cannot listen on 127"):
            await bound(server.address)


async def test_renewed_files_hold_for_the_next_connection(
    tmp_path: Path, member: LinkCertificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    new = trustme.CA()
    async with serving(member) as server:
        old = await connect_tls(server.address, member, plain)
        write(tmp_path / "member", "moegate", new, new)
        await works(server.address, member)
        assert "the TLS files of the cluster have changed" in caplog.text
        assert await old.call("echo", b"on", bytes) == b"on"
        (tmp_path / "member" / "tls.crt").write_text("half written")
        await works(server.address, member)
        assert "the old ones hold" in caplog.text
        old.close("over")


def test_files_that_cannot_be_used_prevent_the_start(tmp_path: Path) -> None:
    certificates(tmp_path, "moegate")
    (tmp_path / "tls.key").unlink()
    tls = ClusterTlsConfig(cert="tls.crt", key="tls.key", ca="ca.crt")
    with pytest.raises(ConfigError, match=r"cluster\.tls\.key"):
        LinkCertificates(tls, tmp_path)


async def test_handshakes_are_bounded_by_address_and_by_time(
    member: LinkCertificates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls_transport, "HANDSHAKE_S", 1.0)
    async with serving(member) as server:
        host, port = server.address.split(":")
        most = tls_transport.MAX_HANDSHAKES_OF_ADDRESS
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(most)]
        await until(lambda: server._handshakes[host] == most)
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await reader.read() == b"", "one too many"
        assert "too many handshakes at once" in caplog.text
        for other, end in silent:
            with contextlib.suppress(OSError):
                assert await other.read() == b"", "none lasts"
            end.close()
        writer.close()
        await until(lambda: not server._handshakes)
        await works(server.address, member)


async def test_all_handshakes_are_bounded(
    member: LinkCertificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_transport, "MAX_HANDSHAKES", 2)
    async with serving(member) as server:
        host, port = server.address.split(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        await until(lambda: server._handshakes.total() == 2)
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await reader.read() == b""
        for _, end in [*silent, (reader, writer)]:
            end.close()


async def test_connections_are_bounded(
    member: LinkCertificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_transport, "MAX_CONNECTIONS", 1)
    async with serving(member) as server:
        first = await connect_tls(server.address, member, plain)
        await until(lambda: server._open)
        await refused(server.address, member)
        first.close("over")
        await until(lambda: all(each.lost for each in server._open))
        await works(server.address, member)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=400), hello=st.booleans())
def test_bytes_that_are_no_handshake_end_and_leave_the_server_as_it_was(
    member: LinkCertificates, data: bytes, hello: bool
) -> None:
    async def send() -> None:
        async with serving(member) as server:
            host, port = server.address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write((client_hello() if hello else b"") + data)
            writer.write_eof()
            with contextlib.suppress(OSError):
                await reader.read()
            writer.close()
            await works(server.address, member)

    asyncio.run(send())


def client_hello() -> bytes:
    """First bytes of a real handshake."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="moegate")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


async def test_frames_that_are_none_end_the_connection(member: LinkCertificates) -> None:
    async with serving(member) as server:
        context = member.client()
        host, port = server.address.split(":")
        reader, writer = await asyncio.open_connection(
            host, int(port), ssl=context, server_hostname="moegate"
        )
        writer.write(b"\xff" * 100)
        with contextlib.suppress(OSError):
            assert await reader.read() == b""
        writer.close()
        await works(server.address, member)


async def test_the_system_notices_a_silent_machine(member: LinkCertificates) -> None:
    async with serving(member) as server:
        connection = await connect_tls(server.address, member, plain)
        assert connection._transport is not None
        found = connection._transport.get_extra_info("socket")
        assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        connection.close("over")
