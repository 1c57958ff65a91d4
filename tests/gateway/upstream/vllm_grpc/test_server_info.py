"""What a server tells of itself over gRPC: real answers, lacking, absurd and garbled ones."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.upstream.vllm_grpc.control_pb2 import ParallelismInfo, ServerInfo
from gateway.upstream.vllm_grpc.server_info import (
    MAX_ANSWER_BYTES,
    MOST,
    ServerFigures,
    decoded,
    server_figures,
)
from tests.vllm_control import Answer, control_server

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "vllm_0_33_rust"
TWO_RANKS = ServerInfo(
    engine_version="0.33.0",
    parallelism=ParallelismInfo(data_parallel_size=2, decode_context_parallel_size=1),
    max_model_len=8192,
    kv_block_size=128,
    total_kv_blocks=1200,
    max_running_requests=32,
)
UNKNOWN = ServerFigures(
    version="", ranks=None, context_tokens=None, rank_max_running=None, kv_capacity_tokens=None
)


async def asked(answer: Answer | None, timeout_s: float = 30.0) -> ServerFigures:
    async with control_server(answer) as control:
        return await server_figures(control.address, tls=False, timeout_s=timeout_s)


async def failure(answer: Answer | None, timeout_s: float = 30.0) -> UpstreamFailure:
    with pytest.raises(UpstreamFailure) as caught:
        await asked(answer, timeout_s)
    return caught.value


def test_what_vllm_tells() -> None:
    figures = decoded((GOLDEN / "server_info.bin").read_bytes())
    assert figures.version.startswith("0.33.0")
    assert (figures.ranks, figures.context_tokens, figures.rank_max_running) == (1, 8192, 32)
    assert figures.kv_capacity_tokens == 600 * 128


async def test_a_server_is_asked_and_gets_no_key() -> None:
    async with control_server(TWO_RANKS.SerializeToString) as control:
        figures = await server_figures(control.address, tls=False, timeout_s=30.0)
        assert "authorization" not in control.metadata[0]
    assert figures == ServerFigures(
        version="0.33.0",
        ranks=2,
        context_tokens=8192,
        rank_max_running=32,
        kv_capacity_tokens=1200 * 128,
    )


def test_blocks_have_the_size_that_attention_uses() -> None:
    info = ServerInfo()
    info.CopyFrom(TWO_RANKS)
    info.parallelism.decode_context_parallel_size = 4
    assert decoded(info.SerializeToString()).kv_capacity_tokens == 1200 * 128 * 4
    info.effective_attention_block_size = 256
    assert decoded(info.SerializeToString()).kv_capacity_tokens == 1200 * 256


async def test_what_is_not_told_is_unknown() -> None:
    assert await asked(lambda: b"") == UNKNOWN
    absurd = ServerInfo(total_kv_blocks=MOST, kv_block_size=2, max_running_requests=2**63)
    assert decoded(absurd.SerializeToString()) == UNKNOWN


async def test_a_server_that_does_not_answer_is_absent() -> None:
    assert (await failure(None, 0.05)).kind is FailureKind.CONNECT
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UpstreamFailure) as caught:
            await server_figures(address, tls=False, timeout_s=30.0)
    assert caught.value.kind is FailureKind.CONNECT


async def test_other_answers_are_told_apart() -> None:
    unimplemented = await failure(lambda: grpc.StatusCode.UNIMPLEMENTED)
    assert unimplemented.kind is FailureKind.PROTOCOL
    assert "UNIMPLEMENTED" in str(unimplemented)
    assert (await failure(lambda: b"\xff\xff")).kind is FailureKind.PROTOCOL
    too_long = await failure(lambda: bytes(MAX_ANSWER_BYTES + 1))
    assert too_long.kind is FailureKind.PROTOCOL


@given(st.binary(max_size=200))
def test_whatever_comes_is_figures_or_a_failure(answer: bytes) -> None:
    try:
        figures = decoded(answer)
    except UpstreamFailure:
        return
    values = (figures.ranks, figures.context_tokens, figures.rank_max_running)
    for value in (*values, figures.kv_capacity_tokens):
        assert value is None or 0 < value <= MOST
