"""A gateway that names itself as a server does not go round for ever."""

from __future__ import annotations

import socket
from typing import Any

import msgspec
import pytest

from gateway.config.remote import RemoteApi
from gateway.config.values import SecretConfig
from gateway.domain.hops import MAX_HTTP_HOPS
from scheduler.metering.settlement import SettledAttempt
from tests import serving
from tests.http_serving import serving_http
from tests.serving import KEY, MODEL

BODY: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 4,
    "messages": [{"role": "user", "content": "hi"}],
}


@pytest.mark.parametrize(
    ("api", "path"),
    [(RemoteApi.OPENAI, "/v1/chat/completions"), (RemoteApi.ANTHROPIC, "/v1/messages")],
)
async def test_a_remote_that_is_the_gateway_itself_is_refused_after_some_rounds(
    api: RemoteApi, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEGATE_TEST_OWN_KEY", KEY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    remote = msgspec.structs.replace(
        serving.remote(f"http://127.0.0.1:{port}"),
        api=api,
        api_key=SecretConfig(env="MOEGATE_TEST_OWN_KEY"),
    )
    settled: list[SettledAttempt] = []
    config = serving.config(remotes=[remote])
    address = f"127.0.0.1:{port}"
    async with serving_http(
        config, ready=False, sinks=(settled.append,), http_listen=address
    ) as http:
        status, answer = await http.post(path, BODY)
        assert status == 400, answer
        assert "moegate-hops" in answer["error"]["message"]
        await serving.until(lambda: http.gateway.front.parts.pipeline.active_requests == 0)
    assert len(settled) == MAX_HTTP_HOPS + 1
