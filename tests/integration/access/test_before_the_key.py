"""A gateway process and callers that nobody knows: its memory and its log stay small."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import trustme

from gateway.config.server import TlsConfig
from tests import serving
from tests.integration.processes.test_server import serve_command, write_pair
from tests.raw_http2 import PREFACE, raw_connection
from tests.serving import METADATA

CALLS = 8
PIECES = 7_900_000
"""Empty sub-messages of a request: 15.8 MB, or 15 KB with gzip."""
ALLOWED_GROWTH_MB = 100
"""Generous. Inflated alone, the requests are 126 MB; parsed, they are 4 GB."""
UNKNOWN = (("authorization", "Bearer mg-nobody"),)
GENERATE = b"/moegate.v1.InferenceService/Generate"
CODES = {
    "/moegate.v1.InferenceService/GenerateOnce": grpc.StatusCode.UNAUTHENTICATED,
    "/moegate.v1.InferenceService/CountTokens": grpc.StatusCode.UNAUTHENTICATED,
    "/moegate.v1.UsageService/GetSpend": grpc.StatusCode.UNAUTHENTICATED,
    "/moegate.v1.InferenceService/Nothing": grpc.StatusCode.UNIMPLEMENTED,
    "/grpc.health.v1.Health/Check": grpc.StatusCode.INVALID_ARGUMENT,
}


def peak_mb(process: asyncio.subprocess.Process) -> float:
    """The most memory that the process has had."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) / 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "moegate.yaml"
    # Nothing listens there: no engine is needed.
    path.write_bytes(
        msgspec.yaml.encode(serving.config(pools=[serving.pool(["http://127.0.0.1:9"])]))
    )
    return path


async def codes(address: str, method: str, raw: bytes, metadata: Any) -> set[grpc.StatusCode]:
    """Sends the bytes CALLS times at once, with gzip. Returns the codes of the answers."""
    channel: Any
    async with grpc.aio.insecure_channel(address, compression=grpc.Compression.Gzip) as channel:
        calls = [channel.unary_unary(method)(raw, metadata=metadata) for _ in range(CALLS)]
        return set(await asyncio.gather(*(call.code() for call in calls)))


@pytest.mark.parametrize("piece", [b"\x0a\x00", b"\x12\x00", b"\x00\x00"])
async def test_small_calls_of_unknown_callers_take_no_memory(path: Path, piece: bytes) -> None:
    raw = piece * PIECES
    async with serve_command(path) as (process, address):
        small = b""
        for method, code in CODES.items():
            if code is grpc.StatusCode.UNAUTHENTICATED:
                assert await codes(address, method, small, UNKNOWN) == {code}
        before_mb = peak_mb(process)
        for method, code in CODES.items():
            for metadata in ((), UNKNOWN):
                assert await codes(address, method, raw, metadata) == {code}
        assert peak_mb(process) - before_mb < ALLOWED_GROWTH_MB


async def test_a_key_inflates_no_more_than_it_may_send(path: Path) -> None:
    async with serve_command(path) as (process, address):
        method = "/moegate.v1.InferenceService/CountTokens"
        assert await codes(address, method, b"\xff", METADATA)
        before_mb = peak_mb(process)
        found = await codes(address, method, b"\x12\x00" * PIECES, METADATA)
        assert found == {grpc.StatusCode.INVALID_ARGUMENT}
        assert peak_mb(process) - before_mb < ALLOWED_GROWTH_MB


async def test_what_unknown_callers_send_is_not_logged_at_length(path: Path) -> None:
    async with serve_command(path) as (process, address):
        for number in range(60):
            async with raw_connection(address, b"\xff" * 3000):
                pass
            async with raw_connection(address) as connection:
                await connection.call(1, b"/\xff" * 2000)
                await connection.call(
                    3, b"/moegate.v1.InferenceService/Generate", (b"x", b"\xff" * 9000)
                )
                await connection.call(
                    5, b"/moegate.v1.InferenceService/Generate", (b"x-bin", b"!" * 9000)
                )
                assert await connection.status(3) == 16, number
            async with raw_connection(address, PREFACE + b"GET / HTTP/1.1\r\n\r\n" * 50):
                pass
        for method in CODES:
            await codes(address, method, b"\xff" * 5000, ())
        process.terminate()
        assert process.stderr is not None
        log = (await process.stderr.read()).decode()
    lines = [line for line in log.splitlines() if "Invalid encoding" in line]
    assert 0 < len(lines) <= 25
    assert len(log) < 20_000
    assert "Traceback" not in log
    with contextlib.suppress(ProcessLookupError):
        await process.wait()


async def test_handshakes_that_fail_are_not_logged(tmp_path: Path) -> None:
    write_pair(tmp_path, trustme.CA())
    tls = TlsConfig(cert="server.crt", key="server.key")
    config = serving.config(pools=[serving.pool(["http://127.0.0.1:9"])])
    server = msgspec.structs.replace(config.server, tls=tls, handshake_timeout_s=1.0)
    path = tmp_path / "moegate.yaml"
    path.write_bytes(msgspec.yaml.encode(msgspec.structs.replace(config, server=server)))
    async with serve_command(path) as (process, address):
        for first in (b"\xff" * 3000, PREFACE, b"\x16\x03\x01\x02\x00\x01" + bytes(600), b""):
            for _ in range(30):
                async with raw_connection(address, first):
                    pass
        async with raw_connection(address, b"\x16\x03\x01") as connection:
            assert await connection.frame() is None  # cut by the timeout
        process.terminate()
        assert process.stderr is not None
        log = (await process.stderr.read()).decode()
    assert len(log) < 5000
    assert "Traceback" not in log
