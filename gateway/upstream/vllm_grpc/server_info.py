"""What a vLLM server tells of itself over gRPC: one call of `vllm.Control/GetServerInfo`.

vLLM's front end in Rust serves it (--grpc-port). Its page of metrics does not tell the size of the
KV cache, and no page of vLLM tells how many sequences run at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError

from gateway.domain.failures import FailureKind, UpstreamFailure, one_line
from gateway.upstream.vllm_grpc.control_pb2 import GetServerInfoRequest, ServerInfo

METHOD = "/vllm.Control/GetServerInfo"
MAX_ANSWER_BYTES = 64 * 1024
MOST = 1 << 40
"""Larger figures are absurd, and unknown."""
MAX_TEXT_CHARS = 100
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    # Identity only: a small message would be inflated to the longest one before it is seen.
    ("grpc.compression_enabled_algorithms_bitset", 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFigures:
    """What a server tells of itself. None: it does not tell.

    Attributes:
        version: of vLLM; empty: not told.
        ranks: data-parallel ranks.
        context_tokens: most tokens of one sequence.
        rank_max_running: sequences that one rank runs at once.
        kv_capacity_tokens: KV cache of all ranks, computed from blocks; an upper bound for a model
            whose layers differ in their attention.
    """

    version: str
    ranks: int | None
    context_tokens: int | None
    rank_max_running: int | None
    kv_capacity_tokens: int | None


async def server_figures(address: str, *, tls: bool, timeout_s: float) -> ServerFigures:
    """Asks the server at `address` (host:port); `timeout_s` bounds the connection and the call.

    No key is sent: vLLM asks for none there. Raises UpstreamFailure.
    """
    credentials = grpc.ssl_channel_credentials() if tls else None
    channel = (
        grpc.aio.insecure_channel(address, options=_OPTIONS)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
    )
    async with channel:
        # Bytes, not messages: gRPC would hide that an answer cannot be decoded.
        call = channel.unary_unary(METHOD, GetServerInfoRequest.SerializeToString, bytes)
        try:
            answer = await call(GetServerInfoRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            text = one_line(f"{error.code().name}: {error.details()}", MAX_TEXT_CHARS)
            absent = error.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
            kind = FailureKind.CONNECT if absent else FailureKind.PROTOCOL
            raise UpstreamFailure(kind, text) from error
    return decoded(answer)


def decoded(answer: bytes) -> ServerFigures:
    """The figures of an answer. Raises UpstreamFailure."""
    try:
        info = ServerInfo.FromString(answer)
    except DecodeError as error:
        message = "its answer is not that of vllm.Control/GetServerInfo"
        raise UpstreamFailure(FailureKind.PROTOCOL, message) from error
    block_tokens = _told(info.effective_attention_block_size) or (
        # Ranks of decode context parallelism hold a part of each block.
        info.kv_block_size * max(1, info.parallelism.decode_context_parallel_size)
    )
    return ServerFigures(
        version=one_line(info.engine_version, MAX_TEXT_CHARS),
        ranks=_told(info.parallelism.data_parallel_size),
        context_tokens=_told(info.max_model_len),
        rank_max_running=_told(info.max_running_requests),
        kv_capacity_tokens=_told(info.total_kv_blocks * block_tokens),
    )


def _told(value: int) -> int | None:
    return value if 0 < value <= MOST else None
