"""What happens to a request at an HTTP door before and after its handler."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import zlib
from typing import Any

import aiohttp
import pytest

from gateway.config.gateway import KeyConfig
from gateway.config.limits import KeyLimitsConfig, LimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.config.telemetry import TelemetryConfig
from tests import serving
from tests.gateway.doors.http.plain import plain_port
from tests.scripted import DONE, GOOD, ROLE, Scripted, listening, word

UNREACHED = serving.remote("http://127.0.0.1:9")


def settings(**fields: Any) -> Any:
    return serving.config(remotes=[UNREACHED], **fields)


async def answer(response: aiohttp.ClientResponse) -> tuple[int, dict[str, Any]]:
    return response.status, await response.json()


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key", None])
async def test_both_forms_of_the_key_are_taken_and_none_is_refused(header: str | None) -> None:
    value = serving.KEY if header == "X-Api-Key" else f"Bearer {serving.KEY}"
    async with (
        plain_port(settings(), ready=False) as (_, port, _),
        aiohttp.ClientSession(f"http://{port.address}") as session,
        session.post(
            "/plain/echo", json={"text": "hi"}, headers={} if header is None else {header: value}
        ) as response,
    ):
        status, body = await answer(response)
        if header is None:
            assert (status, body["kind"]) == (401, "authentication")
            assert response.headers["x-should-retry"] == "false"
            assert response.headers["x-plain"] == "1"
        else:
            assert (status, body) == (200, {"characters": 2, "tenant": "team"})
        assert response.headers["x-request-id"]


async def raw(address: str, *pieces: bytes, wait: bool = True) -> bytes:
    """Sends pieces, and reads until the server closes the connection."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    async with asyncio.timeout(serving.READY_S):
        found = await reader.read(-1) if wait else await reader.readuntil(b"\r\n")
    writer.close()
    return found


def head(key: str, length: int, *more: str, path: str = "/plain/echo") -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: moegate",
        f"Authorization: Bearer {key}",
        f"Content-Length: {length}",
        "Connection: close",
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def test_the_key_is_checked_before_the_body_arrives() -> None:
    async with plain_port(settings(), ready=False) as (_, port, _):
        found = await raw(port.address, head("mg-unknown", 1 << 20), wait=False)
        assert found.startswith(b"HTTP/1.1 401")


async def test_a_body_beyond_what_the_key_may_send_is_refused_before_it_arrives() -> None:
    few = KeyConfig(
        id="few", sha256=key_sha256("mg-few"), limits=KeyLimitsConfig(message_bytes=70_000)
    )
    async with plain_port(settings(keys=[few]), ready=False) as (_, port, session):
        assert b" 413 " in await raw(port.address, head("mg-few", 70_001), wait=False)
        headers = {"Authorization": "Bearer mg-few"}
        text = {"text": "x" * 80_000}
        for data in (chunked(json.dumps(text).encode()), gzip.compress(json.dumps(text).encode())):
            encoding = {"Content-Encoding": "gzip"} if isinstance(data, bytes) else {}
            async with session.post(
                "/plain/echo", data=data, headers=headers | encoding
            ) as response:
                status, body = await answer(response)
                assert (status, body["kind"]) == (413, "too_large")
                assert "at most 70000 may be sent here" in body["message"]
        async with session.post("/plain/echo", json=text) as response:
            assert await answer(response) == (200, {"characters": 80_000, "tenant": "team"})


async def chunked(data: bytes) -> Any:
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


async def test_a_compressed_body_is_read_and_an_unknown_encoding_is_refused() -> None:
    packed = gzip.compress(b'{"text": "hello"}')
    async with plain_port(settings(), ready=False) as (_, _, session):
        for encoding, wanted in (("gzip", 200), ("br", 415)):
            headers = {"Content-Encoding": encoding}
            async with session.post("/plain/echo", data=packed, headers=headers) as response:
                assert response.status == wanted


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_cannot_be_inflated_is_refused_as_such(encoding: str) -> None:
    text = b'{"text": "hello"}'
    packed = gzip.compress(text) if encoding == "gzip" else zlib.compress(text)
    headers = {"Content-Encoding": encoding}
    async with plain_port(settings(), ready=False) as (_, _, session):
        for body in (packed[:-3], packed[:8], packed + packed, b"\x1f\x8bgarbage", b"plain"):
            async with session.post("/plain/echo", data=body, headers=headers) as response:
                status, found = await answer(response)
                assert (status, found["kind"]) == (400, "invalid")
                assert f"content-encoding: {encoding}: " in found["message"]
        async with session.post("/plain/echo", data=text, headers=headers) as response:
            assert response.status == 200, "it says so and is not"


async def test_a_client_that_waits_for_it_is_told_to_send_its_body() -> None:
    body = b'{"text": "hello"}'
    async with plain_port(settings(), ready=False) as (_, port, _):
        expecting = head(serving.KEY, len(body), "Expect: 100-continue")
        found = await raw(port.address, expecting, body)
        assert found.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
        assert b"100 Continue" not in await raw(
            port.address, head("mg-unknown", len(body), "Expect: 100-continue"), wait=False
        )


async def test_a_body_that_does_not_arrive_is_given_up() -> None:
    limits = LimitsConfig(request_s=0.2)
    async with plain_port(settings(limits=limits), ready=False) as (_, port, _):
        found = await raw(port.address, head(serving.KEY, 1000), b'{"text"')
        assert found.startswith(b"HTTP/1.1 408")
        assert b"limits.request_s" in found


async def test_headers_beyond_the_bound_are_refused() -> None:
    limits = LimitsConfig(metadata_bytes=2048)
    async with (
        plain_port(settings(limits=limits), ready=False) as (_, _, session),
        session.post("/plain/echo", json={"text": ""}, headers={"x-long": "y" * 3000}) as response,
    ):
        status, body = await answer(response)
        assert status == 431
        assert "limits.metadata_bytes" in body["message"]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "the body is empty"),
        (b"{", "the body is no JSON"),
        (b'{"text": 7}', "text: Expected `str`, got `int`"),
        (b'{"text": "", "numbers": [1, "2"]}', "numbers[1]: Expected `int`, got `str`"),
        (b"[]", "body: Expected `object`, got `array`"),
        (b'{"text": "\xff"}', "the body is no UTF-8"),
        (b'{"text": "", "x": ' + b"[" * 100_000, "the body is no JSON"),
        (b'{"text": "", "x": [' + b"[]," * 2_000_000 + b"1]}", "limits.elements"),
    ],
)
async def test_a_body_that_is_wrong_is_refused_by_the_name_of_its_field(
    body: bytes, fault: str
) -> None:
    async with (
        plain_port(settings(), ready=False) as (_, _, session),
        session.post("/plain/echo", data=io.BytesIO(body)) as response,
    ):
        status, found = await answer(response)
        assert (status, found["kind"]) == (400, "invalid")
        assert fault in found["message"]
        assert response.headers["x-should-retry"] == "false"


async def test_an_unknown_path_and_a_wrong_method_are_told() -> None:
    async with plain_port(settings(), ready=False) as (_, _, session):
        async with session.get("/v9/nothing") as response:
            assert (await answer(response))[0] == 404
        async with session.get("/plain/echo") as response:
            status, body = await answer(response)
            assert status == 405
            assert "POST" in body["message"]


async def test_a_key_at_its_limits_is_told_when_to_come_again() -> None:
    few = KeyConfig(
        id="few", sha256=key_sha256("mg-few"), limits=KeyLimitsConfig(requests_per_minute=2)
    )
    async with plain_port(settings(keys=[few]), ready=False) as (_, _, session):
        headers = {"x-api-key": "mg-few", "Authorization": ""}
        del headers["Authorization"]
        statuses = []
        async with aiohttp.ClientSession(session._base_url, headers=headers) as other:
            for _ in range(3):
                async with other.post("/plain/echo", data=b"no JSON") as response:
                    statuses.append(response.status)
            assert statuses == [400, 400, 429]
            assert response.headers["x-should-retry"] == "true"
            assert 0 < int(response.headers["retry-after"]) <= 60
            assert 0 < int(response.headers["retry-after-ms"]) <= 60_000


async def test_probes_need_no_key() -> None:
    async with (
        plain_port(settings(), ready=False) as (_, port, _),
        aiohttp.ClientSession(f"http://{port.address}") as session,
    ):
        async with session.get("/livez") as response:
            assert response.status == 200
        port.listener.begin_drain()
        async with session.get("/readyz") as response:
            assert response.status == 503
        async with session.get("/livez") as response:
            assert response.status == 200


@pytest.mark.parametrize("origin", ["https://app.example.com", "https://evil.example.com"])
@pytest.mark.parametrize("configured", [True, False])
async def test_browsers_are_served_only_for_origins_that_are_configured(
    origin: str, configured: bool
) -> None:
    listed = ("https://app.example.com",) if configured else ()
    allowed = configured and "app" in origin
    async with plain_port(settings(), ready=False, cors_origins=listed) as (_, _, session):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        async with session.options("/plain/echo", headers=headers) as response:
            assert response.status == (204 if allowed else 405)
            assert ("Access-Control-Allow-Origin" in response.headers) is allowed
        async with session.post("/plain/echo", json={"text": ""}, headers=headers) as response:
            assert response.status == 200
            found = response.headers.get("Access-Control-Allow-Origin")
            assert found == (origin if allowed else None)


async def test_a_generation_is_answered_whole_with_what_was_decided() -> None:
    script = Scripted(frames=GOOD)
    async with (
        listening(script),
        plain_port(serving.config(pools=[serving.pool([script.url])])) as (_, _, session),
    ):
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        headers = {"x-moegate-request-id": "mine-1", "traceparent": parent}
        async with session.post("/plain/run", json={"text": "hi"}, headers=headers) as response:
            assert await answer(response) == (200, {"text": " w1 w2", "model": "m"})
            assert response.headers["x-request-id"] == "mine-1"
            assert response.headers["x-moegate-placement"] == "own/a"
            assert response.headers["x-moegate-reason"]
        assert script.headers["traceparent"] == parent


async def test_a_stream_begins_with_its_first_output_and_ends() -> None:
    script = Scripted(frames=GOOD)
    async with (
        listening(script),
        plain_port(serving.config(pools=[serving.pool([script.url])])) as (_, _, session),
        session.post("/plain/run", json={"text": "hi", "stream": True}) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-moegate-placement"] == "own/a"
        text = await response.text()
        assert text.replace("\n\ndata:  w2", " w2").split("\n\n") == [
            *("data: open", "data:  w1 w2", "data: end", ""),
        ]


async def test_a_failure_before_the_first_output_is_a_status() -> None:
    script = Scripted(status=400)
    async with (
        listening(script),
        plain_port(serving.config(pools=[serving.pool([script.url])])) as (_, _, session),
        session.post("/plain/run", json={"text": "hi", "stream": True}) as response,
    ):
        assert (await answer(response))[0] == 400


async def test_a_failure_after_it_is_told_within_the_stream() -> None:
    script = Scripted(frames=[ROLE, word(1)], end="cut")
    async with (
        listening(script),
        plain_port(serving.config(pools=[serving.pool([script.url])])) as (_, _, session),
        session.post("/plain/run", json={"text": "hi", "stream": True}) as response,
    ):
        text = await response.text()
        assert text.endswith("data: failed 503 partial_output\n\n")


async def test_silence_is_filled_with_pings() -> None:
    script = Scripted(frames=[ROLE, word(1), word(2, b'"length"'), DONE], pause_s=1.5)
    async with (
        listening(script),
        plain_port(serving.config(pools=[serving.pool([script.url])]), ping_s=0.2) as (
            _,
            _,
            session,
        ),
        session.post("/plain/run", json={"text": "hi", "stream": True}) as response,
    ):
        lines = (await response.text()).split("\n\n")
        assert lines[:2] == ["data: open", ": ping"]
        assert [line for line in lines if line != ": ping"][1:] == [
            "data:  w1",
            "data:  w2",
            "data: end",
            "",
        ]


async def test_a_client_that_goes_away_ends_the_upstream_call() -> None:
    script = Scripted(frames=[ROLE, word(1)], end="hang")
    async with (
        listening(script),
        plain_port(serving.config(pools=[serving.pool([script.url])])) as (served, _, session),
    ):
        async with session.post("/plain/run", json={"text": "hi", "stream": True}) as response:
            await response.content.readuntil(b"w1\n\n")
        async with asyncio.timeout(serving.READY_S):
            await script.left.wait()
        await serving.until(lambda: served.gateway.pipeline.active_requests == 0)


async def test_requests_are_measured_by_their_routes() -> None:
    telemetry = TelemetryConfig(metrics_listen="127.0.0.1:0")
    async with plain_port(settings(telemetry=telemetry), ready=False) as (served, _, session):
        for path in ("/plain/echo", "/nothing"):
            async with session.post(path, json={"text": ""}) as response:
                await response.read()
        instruments = served.gateway.telemetry.instruments
        assert instruments is not None

        def count(route: str, status: str) -> float | None:
            name = "http_server_request_duration_seconds_count"
            labels = {
                "http_request_method": "POST",
                "http_route": route,
                "http_response_status_code": status,
            }
            return instruments.registry.get_sample_value(name, labels)

        await serving.until(lambda: count("unknown", "404") == 1.0)
        assert count("/plain/echo", "200") == 1.0
