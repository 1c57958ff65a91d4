"""Clients of HTTP/2 as they come: curl, and Node's own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moegate.simulated_vllm.server import SimulatedVllm
from tests import serving
from tests.clients.conftest import CLIENTS, ROOT, Bench, running_bench
from tests.gateway.doors.http.http2.tls import tls_of
from tests.serving import KEY, MODEL


@pytest.fixture
async def secure(
    engine: SimulatedVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """With TLS."""
    tls, _ = tls_of(tmp_path)
    async with running_bench(engine, tmp_path, monkeypatch, None, tls=tls) as made:
        yield made


def url(bench: Bench) -> str:
    return bench.gateway.url.replace("http://", "https://")


def body(stream: bool) -> str:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}
    return json.dumps(asked | {"stream": stream})


@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
async def test_curl(secure: Bench, version: str) -> None:
    """ALPN chooses; a whole answer, a stream, and a large body that is refused."""
    common = ("curl", "-sS", "-N", version, "--cacert", secure.folder.parent / "ca.crt")
    key = ("-H", f"Authorization: Bearer {KEY}")
    address = f"{url(secure)}/v1/chat/completions"
    told = ("-w", "\n%{http_version} %{http_code}")
    expected = "2" if version == "--http2" else "1.1"
    whole = await secure.run(*common, *key, *told, address, "-d", body(False))
    answer, _, last = whole.out.rpartition("\n")
    assert json.loads(answer)["usage"]["completion_tokens"] == 10, whole
    assert last == f"{expected} 200"
    stream = await secure.run(*common, *key, address, "-d", body(True))
    assert stream.out.endswith("data: [DONE]\n\n"), stream
    large = secure.folder / "large"
    large.write_bytes(b"a" * (8 << 20))
    refused = await secure.run(*common, *told, address, "--data-binary", f"@{large}")
    assert refused.out.endswith(f"{expected} 401"), refused


async def test_node(secure: Bench) -> None:
    ran = await secure.run(
        *(CLIENTS / "node", ROOT / "tests" / "clients" / "http2.mjs"),
        GATEWAY=url(secure),
        KEY=KEY,
        MODEL=MODEL,
        AUTHORITY=str(secure.folder.parent / "ca.crt"),
    )
    assert ran.status == 0, ran.err
    told = json.loads(ran.out)
    assert told["done"] == 20
    assert told["large"]
    assert told["after"]
    await serving.until(lambda: secure.engine.open_requests == 0)
    assert secure.gateway.gateway.pipeline.active_requests == 0
