"""Connections of the HTTP port: TLS, their bounds, clients that do not read, and the drain."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import trustme

from gateway.config.server import TlsConfig
from gateway.doors.http.listening.listener import HttpListener, _Http1Connection
from tests import serving
from tests.gateway.doors.http.plain import plain_port
from tests.http_serving import BEARER, ServingHttp, serving_http
from tests.integration.processes.test_health import write_pair
from tests.scripted import ROLE, Scripted, listening, word

UNREACHED = serving.remote("http://127.0.0.1:9")


def settings(**server: Any) -> Any:
    made = serving.config(remotes=[UNREACHED])
    return msgspec.structs.replace(made, server=msgspec.structs.replace(made.server, **server))


async def connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def closed(reader: asyncio.StreamReader) -> None:
    """The server closes the connection."""
    async with asyncio.timeout(serving.READY_S):
        try:
            assert await reader.read(1) == b""
        except ConnectionError:
            return


async def test_every_address_is_for_ipv4_and_ipv6() -> None:
    async with plain_port(settings(http_listen="[::]:0"), ready=False) as (_, port, _):
        number = port.address.rpartition(":")[2]
        assert port.address == f"[::]:{number}"
        for host in ("127.0.0.1", "::1"):
            reader, writer = await asyncio.open_connection(host, int(number))
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            writer.close()


async def test_connections_beyond_the_bound_are_closed() -> None:
    async with plain_port(settings(max_connections=3), ready=False) as (_, port, _):
        opened = [await connected(port.address) for _ in range(3)]
        await serving.until(lambda: port.listener.connections == 3)
        reader, refused = await connected(port.address)
        await closed(reader)
        refused.close()
        opened[0][1].close()
        await serving.until(lambda: port.listener.connections == 2)
        _, writer = await connected(port.address)
        await serving.until(lambda: port.listener.connections == 3)
        for each in (writer, *(writer for _, writer in opened)):
            each.close()


@pytest.mark.parametrize("first", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_first_request_that_does_not_come_closes_its_connection(first: bytes) -> None:
    async with plain_port(settings(handshake_timeout_s=0.3), ready=False) as (_, port, _):
        reader, writer = await connected(port.address)
        writer.write(first)
        await closed(reader)
        writer.close()


async def test_an_old_connection_takes_no_more_requests() -> None:
    async with plain_port(settings(max_connection_age_s=0.2), ready=False) as (_, _, session):
        async with session.post("/plain/echo", json={"text": ""}) as response:
            assert response.headers.get("Connection") != "close"
        await asyncio.sleep(0.3)
        async with session.post("/plain/echo", json={"text": ""}) as response:
            assert response.headers["Connection"] == "close"


async def test_malformed_requests_end_their_connection_only() -> None:
    async with plain_port(settings(), ready=False) as (_, port, session):
        for garbage in (b"\x16\x03\x01\x02", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"X\r\n\r\n"):
            reader, writer = await connected(port.address)
            writer.write(garbage + b"\r\n\r\n")
            async with asyncio.timeout(serving.READY_S):
                assert b" 400 " in await reader.read(-1)
            writer.close()
        async with session.post("/plain/echo", json={"text": ""}) as response:
            assert response.status == 200


async def test_a_client_that_does_not_read_frees_the_engine() -> None:
    long = b" w" * 2000  # 16 MB in all: more than the buffers of both sockets hold
    frames = [ROLE, *(word(i).replace(b" w", long) for i in range(1, 4000))]
    # Room for an answer of that size: a longer one than was asked for would be ended before.
    script = Scripted(frames=frames, end="hang", context_tokens=1 << 20)
    async with listening(script):
        pool = serving.pool([script.url])
        made = serving.config(pools=[pool], interactive=serving.PATIENT)
        async with plain_port(made, blocked_write_s=0.5) as (served, port, _):
            reader, writer = await connected(port.address)
            body = b'{"text": "hi", "stream": true}'
            head = f"POST /plain/run HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Authorization: Bearer {serving.KEY}\r\n\r\n".encode() + body)
            await serving.until(lambda: served.gateway.pipeline.active_requests == 1)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await serving.until(lambda: served.gateway.pipeline.active_requests == 0)
            await serving.until(lambda: served.gateway.deliveries.open_streams == 0)
            writer.close()
            del reader


async def test_a_drain_ends_idle_connections_and_waits_for_streams() -> None:
    script = Scripted(frames=[ROLE, word(1), word(2, b'"length"')], pause_s=0.5)
    async with (
        listening(script),
        serving_http(
            serving.config(pools=[serving.pool([script.url])], interactive=serving.PATIENT)
        ) as http,
    ):
        address = http.url.removeprefix("http://")
        idle, writer = await connected(address)
        used, used_writer = await connected(address)
        used_writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await used.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await used.readuntil(b"ok\n")
        body = {
            "model": serving.MODEL,
            "messages": [{"role": "user", "content": "Hi"}],
            "stream": True,
        }
        async with http.session.post(f"{http.url}/v1/chat/completions", json=body) as response:
            await response.content.readuntil(b"w1")
            draining = asyncio.create_task(http.gateway.drain())
            await closed(idle)
            await closed(used)
            text = await response.text()
            assert text.endswith("data: [DONE]\n\n")
        await draining
        with pytest.raises(OSError, match="Connect call failed"):
            await connected(address)
        writer.close()
        used_writer.close()


async def test_a_body_that_still_comes_at_the_beginning_of_a_drain_is_read_and_answered() -> None:
    async with plain_port(settings(), ready=False) as (_, port, _):
        reader, writer = await connected(port.address)
        body = b'{"text": "hello"}'
        head = f"POST /plain/echo HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Authorization: Bearer {serving.KEY}\r\n\r\n".encode() + body[:5])
        await serving.until(lambda: any(each.asked for each in port.listener._open))
        port.listener.close()
        await asyncio.sleep(0)
        writer.write(body[5:])
        async with asyncio.timeout(serving.READY_S):
            answer = await reader.read(-1)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"Connection: close" in answer
        assert b'"characters":5' in answer
        writer.close()


SENT = b'{"model": "%s", "messages": [{"role": "user", "content": "Hi"}], "stream": true}' % (
    serving.MODEL.encode()
)


def patient(script: Scripted) -> Any:
    """A gateway before the engine, whose requests have time."""
    return serving.config(pools=[serving.pool([script.url])], interactive=serving.PATIENT)


def listener_of(http: ServingHttp) -> HttpListener:
    port = http.gateway.front.http
    assert port is not None
    return port.listener


async def begun(address: str, body: bytes, sent: int) -> tuple[Any, Any]:
    """A connection with a request of which `sent` bytes of the body have come."""
    reader, writer = await connected(address)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += f"Authorization: Bearer {serving.KEY}\r\n\r\n"
    writer.write(head.encode() + body[:sent])
    return reader, writer


async def test_a_drain_waits_for_streams_and_bodies_over_http() -> None:
    script = Scripted(frames=[ROLE, word(1), word(2, b'"length"')], pause_s=0.5)
    async with listening(script), serving_http(patient(script)) as http:
        address = http.url.removeprefix("http://")
        reader, writer = await begun(address, SENT, len(SENT))
        await serving.until(lambda: http.gateway.pipeline.active_requests == 1)
        late, late_writer = await begun(address, SENT, 5)
        listener = listener_of(http)
        await serving.until(lambda: listener.requests == 2)
        draining = asyncio.create_task(http.gateway.drain())
        await closed_to_others(address)
        late_writer.write(SENT[5:])
        for each in (reader, late):
            assert (await each.read(-1)).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        await draining
        assert listener.requests == 0
        writer.close()
        late_writer.close()


async def closed_to_others(address: str) -> None:
    """The port takes no more connections."""
    async with asyncio.timeout(serving.READY_S):
        while True:
            try:
                _, writer = await connected(address)
            except OSError:
                return
            writer.close()


@pytest.mark.parametrize("sent", [5, len(SENT)])
async def test_a_drain_waits_no_longer_than_it_may(sent: int) -> None:
    """For the rest of a body, or for an engine that is silent."""
    script = Scripted(frames=[ROLE, word(1)], end="hang")
    async with listening(script), serving_http(patient(script), drain_s=0.3) as http:
        address = http.url.removeprefix("http://")
        reader, writer = await begun(address, SENT, sent)
        listener = listener_of(http)
        await serving.until(lambda: listener.requests == 1)
        async with asyncio.timeout(serving.READY_S):
            await http.gateway.drain()
        assert listener.requests == 1
        async with asyncio.timeout(serving.READY_S):
            await listener.stop()
        assert listener.requests == 0
        await serving.until(lambda: http.gateway.pipeline.active_requests == 0)
        await reader.read(-1)
        writer.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_accepted_as_the_port_closes_is_answered_or_closed(turns: int) -> None:
    """`turns`: of the loop between the connection in the kernel and the end of the port."""
    async with plain_port(settings(), ready=False) as (_, port, _):
        host, _, number = port.address.rpartition(":")
        clients = [socket.create_connection((host, int(number))) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        port.listener.close()
        for client in clients:
            reader, writer = await asyncio.open_connection(sock=client)
            with contextlib.suppress(ConnectionError):
                writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                async with asyncio.timeout(serving.READY_S):
                    answer = await reader.read(-1)
                assert not answer or answer.startswith(b"HTTP/1.1 200 ")
            writer.close()


async def test_a_connection_left_over_by_an_answer_of_that_moment_is_closed_later() -> None:
    async with plain_port(settings(), ready=False) as (_, port, _):
        reader, writer = await connected(port.address)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"ok\n")
        (connection,) = port.listener._open
        assert isinstance(connection, _Http1Connection)
        connection.is_leaving = True  # and nothing closed it, as its request had not ended
        await closed(reader)
        writer.close()


async def test_tls_follows_renewed_certificates(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    write_pair(tmp_path, first)
    tls = TlsConfig(cert=str(tmp_path / "tls.crt"), key=str(tmp_path / "tls.key"))
    async with serving_http(settings(tls=tls), ready=False) as http:
        url = http.url.replace("http://", "https://")
        assert await status(url, first) == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await status(url, second)
        write_pair(tmp_path, second)
        certificates = http.gateway.front.certificates
        assert certificates is not None
        assert certificates.renew()
        assert await status(url, second) == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await status(url, first)


async def test_tls_may_ask_for_a_certificate_of_the_client(tmp_path: Path) -> None:
    authority = trustme.CA()
    write_pair(tmp_path, authority)
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    tls = TlsConfig(
        cert=str(tmp_path / "tls.crt"),
        key=str(tmp_path / "tls.key"),
        client_ca=str(tmp_path / "ca.crt"),
    )
    async with serving_http(settings(tls=tls), ready=False) as http:
        url = http.url.replace("http://", "https://")
        assert await status(url, authority, authority.issue_cert("client")) == 200
        with pytest.raises(aiohttp.ClientError):
            await status(url, authority)


async def status(url: str, authority: trustme.CA, client: trustme.LeafCert | None = None) -> int:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if client is not None:
        client.configure_cert(context)
    async with (
        aiohttp.ClientSession(headers=BEARER) as session,
        session.get(f"{url}/v1/models", ssl=context) as response,
    ):
        return response.status
