"""HTTP/2 on the HTTP port: real clients, flow control, and what ends a request or a connection."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import httpx2
import msgspec
import uvloop

from gateway.config.gateway import GatewayConfig
from gateway.config.limits import LimitsConfig
from tests import serving
from tests.gateway.doors.http.http2.tls import ask, get, head, tls_of, tls_port
from tests.gateway.doors.http.listening.test_listener import settings
from tests.http_serving import BEARER, serving_http
from tests.raw_http2 import DATA, GOAWAY, HEADERS, RST_STREAM, frame
from tests.scripted import ROLE, Scripted, listening, word


async def test_alpn_chooses_the_protocol(tmp_path: Path) -> None:
    async with tls_port(settings(), tmp_path, ready=False) as tls:
        found = await tls.client.post("/plain/echo", json={"text": "abc"})
        assert (found.status_code, found.http_version) == (200, "HTTP/2")
        assert found.json() == {"characters": 3, "tenant": "team"}
        found = await tls.client.get("/livez")
        assert (found.status_code, found.text) == (200, "ok\n")


async def test_a_large_body_arrives_whole(tmp_path: Path) -> None:
    async with tls_port(settings(), tmp_path, ready=False) as tls:
        found = await tls.client.post("/plain/echo", json={"text": "a" * 5_000_000})
        assert found.json()["characters"] == 5_000_000


async def test_a_hundred_requests_share_one_connection(tmp_path: Path) -> None:
    async with tls_port(settings(), tmp_path, ready=False) as tls:
        texts = ["a" * number for number in range(100)]
        found = await asyncio.gather(
            *(tls.client.post("/plain/echo", json={"text": text}) for text in texts)
        )
        assert [each.json()["characters"] for each in found] == list(range(100))
        assert tls.port.listener.connections == 1


async def test_refusals_are_those_of_the_door(tmp_path: Path) -> None:
    limits = LimitsConfig(http_body_bytes=65_536)
    bounded = msgspec.structs.replace(settings(), limits=limits)
    async with tls_port(bounded, tmp_path, ready=False) as tls:
        client = tls.client
        found = await client.post("/plain/echo", headers={"Authorization": "Bearer no"}, json={})
        assert found.status_code == 401
        assert (await client.post("/nowhere", json={})).status_code == 404
        large = {"x-large": "a" * 17_000}
        assert (await client.post("/plain/echo", headers=large, json={})).status_code == 431
        found = await client.post("/plain/echo", content=b"a" * (3 << 20))
        assert (found.status_code, found.json()["kind"]) == (413, "too_large")
        waits = {"expect": "100-continue"}
        found = await client.post("/plain/echo", headers=waits, json={"text": "ab"})
        assert found.json()["characters"] == 2
        head = await client.head("/plain/echo")
        assert (head.status_code, head.content) == (405, b"")
        assert tls.port.listener.connections == 1, "none of them ends the connection"


def before(script: Scripted) -> GatewayConfig:
    """Settings of a gateway in front of a scripted server."""
    return serving.config(pools=[serving.pool([script.url])], interactive=serving.PATIENT)


async def test_events_come_one_by_one_and_a_reset_frees_the_engine(tmp_path: Path) -> None:
    script = Scripted(frames=[ROLE, word(1)], end="hang")
    async with listening(script), tls_port(before(script), tmp_path) as tls, tls.raw() as raw:
        await raw.send(*ask(1, b'{"text":"hi","stream":true}'))
        events = b""
        while b"data:  w1" not in events:
            found = await raw.until(DATA)
            assert found is not None
            events += found.payload
        assert tls.served.gateway.pipeline.active_requests == 1
        await raw.send(frame(RST_STREAM, bytes([0, 0, 0, 8]), stream=1))
        await serving.until(lambda: tls.served.gateway.pipeline.active_requests == 0)
        await asyncio.wait_for(script.left.wait(), serving.READY_S)
        await raw.send(*get(3, b"/livez"))
        assert await raw.until(HEADERS) is not None, "the connection stays"


async def test_a_connection_that_breaks_frees_the_engine(tmp_path: Path) -> None:
    script = Scripted(frames=[ROLE, word(1)], end="hang")
    async with listening(script), tls_port(before(script), tmp_path) as tls:
        async with tls.raw() as raw:
            for stream in (1, 3):
                await raw.send(*ask(stream, b'{"text":"hi","stream":true}'))
            await serving.until(lambda: tls.served.gateway.pipeline.active_requests == 2)
        await serving.until(lambda: tls.served.gateway.pipeline.active_requests == 0)
        await serving.until(lambda: tls.port.listener.connections == 0)


async def test_a_window_that_stays_shut_frees_the_engine(tmp_path: Path) -> None:
    long = b" w" * 2000
    frames = [ROLE, *(word(i).replace(b" w", long) for i in range(1, 200))]
    script = Scripted(frames=frames, end="hang", context_tokens=1 << 20)
    async with listening(script):
        bounds = {"blocked_write_s": 0.5}
        async with tls_port(before(script), tmp_path, bounds=bounds) as tls, tls.raw() as raw:
            await raw.send(*ask(1, b'{"text":"hi","stream":true}'))
            await serving.until(lambda: tls.served.gateway.pipeline.active_requests == 1)
            sent = 0
            async with asyncio.timeout(serving.READY_S):
                while (found := await raw.frame()) is not None and found.kind != RST_STREAM:
                    sent += len(found.payload) if found.kind == DATA else 0
            assert found is not None
            assert sent == 65_535, "no more than the window"
            assert tls.served.gateway.pipeline.active_requests == 0
            await raw.send(*get(3, b"/livez"))
            assert (await raw.until(HEADERS)) is not None, "others go on"


async def test_a_body_that_nobody_reads_shuts_its_window(tmp_path: Path) -> None:
    """Without a key a body is refused at once, and what comes of it is dropped."""
    async with tls_port(settings(), tmp_path, ready=False) as tls, tls.raw() as raw:
        await raw.send(head(1, b"/plain/echo", (b"content-length", b"900000")))
        await raw.send(*(frame(DATA, bytes(16_000), stream=1) for _ in range(10)))
        found = await raw.until(HEADERS)
        assert found is not None
        assert b"401" in found.payload
        found = await raw.until(RST_STREAM)
        assert found is not None
        assert found.payload == bytes(4), "no error: the answer stands"


async def test_a_drain_says_goodbye_and_waits_for_streams(tmp_path: Path) -> None:
    script = Scripted(frames=[ROLE, word(1), word(2, b'"length"')], pause_s=0.5)
    async with (
        listening(script),
        tls_port(before(script), tmp_path) as tls,
        tls.raw() as idle,
        tls.raw() as raw,
    ):
        for each in (idle, raw):
            await each.send(*get(1, b"/livez"))
            assert await each.until(DATA) is not None
        await raw.send(*ask(3, b'{"text":"hi","stream":true}'))
        await serving.until(lambda: tls.served.gateway.pipeline.active_requests == 1)
        tls.port.listener.close()
        assert await idle.until(GOAWAY) is not None
        while await idle.frame() is not None:
            pass
        output = b""
        goodbyes = 0
        while (found := await raw.frame()) is not None:
            output += found.payload if found.kind == DATA and found.stream == 3 else b""
            goodbyes += found.kind == GOAWAY
        assert output.endswith(b"data: end\n\n")
        assert goodbyes == 1, "httpx breaks off what is in progress at the first"


async def test_the_drain_of_a_gateway_waits_for_its_streams(tmp_path: Path) -> None:
    script = Scripted(frames=[ROLE, word(1), word(2, b'"length"')], pause_s=0.5)
    tls, trusted = tls_of(tmp_path)
    context = ssl.create_default_context(cafile=str(trusted))
    body = {"model": serving.MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with (
        listening(script),
        serving_http(before(script), tls=tls) as http,
        httpx2.AsyncClient(http2=True, verify=context, headers=BEARER, timeout=30) as client,
    ):
        url = http.url.replace("http://", "https://") + "/v1/chat/completions"
        asked = asyncio.create_task(client.post(url, json=body))
        await serving.until(lambda: http.gateway.pipeline.active_requests == 1)
        await http.gateway.drain()
        assert http.gateway.pipeline.active_requests == 0
        answer = await asked
        assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
        assert answer.text.endswith("data: [DONE]\n\n")


async def test_an_old_connection_is_told_to_leave(tmp_path: Path) -> None:
    bounds = {"max_connection_age_s": 1e-6}
    async with tls_port(settings(), tmp_path, ready=False, bounds=bounds) as tls:
        async with tls.raw() as raw:
            await raw.send(*ask(1, b'{"text":"a"}', b"/plain/echo"))
            assert await raw.until(GOAWAY) is not None
            while await raw.frame() is not None:
                pass
        found = await tls.client.post("/plain/echo", json={"text": "abc"})
        assert found.status_code == 200
        found = await tls.client.post("/plain/echo", json={"text": "abc"})
        assert found.status_code == 200


async def test_idle_and_silent_connections_are_closed(tmp_path: Path) -> None:
    bounds = {"max_connection_idle_s": 0.5, "handshake_timeout_s": 1.0}
    async with (
        tls_port(settings(), tmp_path, ready=False, bounds=bounds) as tls,
        tls.raw() as used,
        tls.raw() as silent,
    ):
        await used.send(*get(1, b"/livez"))
        assert await used.until(GOAWAY) is not None
        while await used.frame() is not None:
            pass
        while await silent.frame() is not None:
            pass


async def test_http2_may_be_switched_off(tmp_path: Path) -> None:
    async with tls_port(settings(), tmp_path, ready=False, http2=False) as tls:
        found = await tls.client.post("/plain/echo", json={"text": "abc"})
        assert (found.status_code, found.http_version) == (200, "HTTP/1.1")


def test_the_gateways_own_event_loop_chooses_as_well(tmp_path: Path) -> None:
    """Its transports are of other classes than asyncio's, on which the other tests run."""

    async def both() -> None:
        bounds = {"max_connections": 2}
        async with tls_port(settings(), tmp_path, ready=False, bounds=bounds) as tls:
            found = await tls.client.post("/plain/echo", json={"text": "a" * 1_000_000})
            assert (found.http_version, found.json()["characters"]) == ("HTTP/2", 1_000_000)
            async with httpx2.AsyncClient(verify=tls.context, base_url=tls.url) as one:
                assert (await one.get("/livez")).http_version == "HTTP/1.1"
                with contextlib.suppress(ConnectionError):
                    async with tls.raw() as beyond:
                        assert await beyond.frame() is None
            await serving.until(lambda: tls.port.listener.connections == 1)
            async with tls.raw() as raw:
                await raw.send(*get(1, b"/livez"))
                assert await raw.until(HEADERS) is not None
            await serving.until(lambda: tls.port.listener.connections == 1)

    uvloop.run(both())
