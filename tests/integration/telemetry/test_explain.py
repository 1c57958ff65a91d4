"""Explain, and `moegate explain`: the decision on a request, to those who may know it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc
import pytest

from gateway.config.gateway import KeyConfig, KeyRole
from gateway.config.resolve.api_keys import key_sha256
from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from moegate.v1 import inference_pb2
from tests import serving
from tests.serving import KEY, METADATA, Serving, chat_request, read_stream

OPERATOR, OTHER = "mg-operator", "mg-other"


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


@pytest.fixture
async def gateway() -> AsyncIterator[Serving]:
    fast = SimulatedVllmConfig(served_model_name="m", speed=100.0)
    async with simulated_vllm(fast) as a, simulated_vllm(fast) as b, simulated_vllm(fast) as away:
        settings = serving.config(
            pools=[serving.pool([a.url, b.url], upstream_model="m")],
            remotes=[serving.remote(away.url, upstream_model="m")],
            keys=[
                KeyConfig(id="op", sha256=key_sha256(OPERATOR), role=KeyRole.OPERATOR),
                KeyConfig(id="other", sha256=key_sha256(OTHER)),
            ],
        )
        async with serving.serving(settings) as running:
            await read_stream(
                running.stub.Generate(chat_request(request_id="mine"), metadata=METADATA)
            )
            yield running


async def explain(
    gateway: Serving, key: str, request_id: str = "mine", key_id: str = ""
) -> inference_pb2.ExplainResponse:
    request = inference_pb2.ExplainRequest(request_id=request_id, key_id=key_id)
    return await gateway.stub.Explain(request, metadata=bearer(key))


async def test_a_decision_is_told_with_every_candidate(gateway: Serving) -> None:
    for key, key_id in ((KEY, ""), (OPERATOR, "test")):
        found = await explain(gateway, key, key_id=key_id)
        assert (found.request_id, found.model, found.tier) == ("mine", serving.MODEL, "local")
        assert found.attempt == 1
        chosen, *others = found.candidates
        assert chosen.chosen
        assert chosen.placement == found.placement
        assert chosen.feasible
        assert chosen.ttft.ToNanoseconds() > 0
        assert chosen.tpot.ToNanoseconds() > 0
        assert chosen.reason == found.reason
        assert {c.placement for c in others} >= {"own/a", "own/b"} - {found.placement}
        assert not any(c.chosen for c in others)


@pytest.mark.parametrize(
    ("key", "request_id", "key_id", "code"),
    [
        (OTHER, "mine", "", grpc.StatusCode.NOT_FOUND),
        (OTHER, "mine", "test", grpc.StatusCode.PERMISSION_DENIED),
        (OPERATOR, "mine", "", grpc.StatusCode.NOT_FOUND),
        (KEY, "never", "", grpc.StatusCode.NOT_FOUND),
        (KEY, "", "", grpc.StatusCode.NOT_FOUND),
        ("mg-unknown", "mine", "", grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_others_learn_nothing(
    gateway: Serving, key: str, request_id: str, key_id: str, code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await explain(gateway, key, request_id, key_id)
    assert caught.value.code() is code


async def test_the_command_says_it_in_words_and_figures(gateway: Serving) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moegate", "explain", "mine", "--key-id", "test"),
        *("--key", OPERATOR, "--target", gateway.gateway.address),
        env={"PATH": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(serving.READY_S):
        out, err = await process.communicate()
    text = out.decode()
    assert (process.returncode, err.decode()) == (0, "")
    assert "Request mine of moe: attempt 1 went to own/" in text
    assert "Way local: " in text
    assert "> own/" in text
    assert " ms " in text
