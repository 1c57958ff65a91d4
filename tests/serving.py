"""A real gateway on loopback for tests: configuration, channel, stub, and what a call tells."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.config.gateway import (
    GatewayConfig,
    GpuConfig,
    KeyConfig,
    PoolConfig,
    RemoteConfig,
    ReplicaConfig,
    SloClassesConfig,
    SloFiguresConfig,
    TenantConfig,
    TimeoutsConfig,
)
from gateway.config.limits import LimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.config.server import ServerConfig
from gateway.config.telemetry import TelemetryConfig
from gateway.server import RunningGateway, running_gateway
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2_grpc
from scheduler.metering.settlement import Sink

KEY = "mg-test-key"
METADATA = (("authorization", f"Bearer {KEY}"),)
MODEL = "moe"
GREEDY = generation_pb2.Sampling(temperature=0.0, seed=1)
READY_S = 60.0
"""Bound on the time until a gateway is ready: generous, the machine is shared."""

CONNECTS = TimeoutsConfig(connect_s=20.0)
"""A server on the same machine refuses at once or is there, and takes its time when it is busy."""


def pool(
    urls: Sequence[str],
    *,
    upstream_model: str | None = None,
    max_num_seqs: int = 8,
    timeouts: TimeoutsConfig | None = None,
) -> PoolConfig:
    """A pool of the model, one replica a URL, named a, b, c."""
    return PoolConfig(
        name="own",
        model=MODEL,
        upstream_model=upstream_model,
        replicas=tuple(
            ReplicaConfig(name=chr(ord("a") + i), url=url) for i, url in enumerate(urls)
        ),
        gpu=GpuConfig(type="H100", count=1, usd_per_gpu_hour="2.50"),
        max_num_seqs=max_num_seqs,
        timeouts=timeouts or CONNECTS,
    )


def remote(
    url: str, *, upstream_model: str | None = None, max_concurrency: int = 8
) -> RemoteConfig:
    """A remote of the model, of class "eu"."""
    return RemoteConfig(
        name="far",
        remote_class="eu",
        model=MODEL,
        upstream_model=upstream_model,
        url=url,
        max_concurrency=max_concurrency,
        timeouts=CONNECTS,
    )


PATIENT = SloFiguresConfig(ttft_s=60.0, tpot_s=5.0, max_queue_s=60.0)
"""A class of service for tests that are not about scheduling, on machines that may be slow: no
request waits for another one's sake."""


def config(
    *,
    pools: Sequence[PoolConfig] = (),
    remotes: Sequence[RemoteConfig] = (),
    keys: Sequence[KeyConfig] = (),
    limits: LimitsConfig | None = None,
    telemetry: TelemetryConfig | None = None,
    interactive: SloFiguresConfig | None = None,
) -> GatewayConfig:
    """A configuration with the key `KEY`, on a free port."""
    mine = KeyConfig(id="test", sha256=key_sha256(KEY))
    return GatewayConfig(
        server=ServerConfig(
            listen="127.0.0.1:0", drain_delay_s=0.0, drain_s=30.0, probe_interval_s=0.1
        ),
        pools=tuple(pools),
        remotes=tuple(remotes),
        tenants=(TenantConfig(name="team", keys=(mine, *keys)),),
        limits=limits or LimitsConfig(),
        telemetry=telemetry or TelemetryConfig(),
        slo_classes=SloClassesConfig()
        if interactive is None
        else SloClassesConfig(interactive=interactive),
    )


@dataclass(frozen=True, slots=True)
class Serving:
    """A gateway with a client."""

    gateway: RunningGateway
    channel: grpc.aio.Channel
    stub: inference_pb2_grpc.InferenceServiceAsyncStub


@contextlib.asynccontextmanager
async def serving(
    settings: GatewayConfig, *, ready: bool = True, sinks: tuple[Sink, ...] = ()
) -> AsyncIterator[Serving]:
    """Runs a gateway; with `ready`, until every own replica is in service."""
    with tempfile.TemporaryDirectory(prefix="moegate-test-") as folder:
        async with serving_in(Path(folder), settings, ready=ready, sinks=sinks) as gateway:
            yield gateway


@contextlib.asynccontextmanager
async def serving_in(
    folder: Path, settings: GatewayConfig, *, ready: bool = True, sinks: tuple[Sink, ...] = ()
) -> AsyncIterator[Serving]:
    """The same, with its ledger in a folder that stays."""
    async with (
        running_gateway(settings, folder, sinks=sinks) as gateway,
        grpc.aio.insecure_channel(gateway.address) as channel,
    ):
        if ready:
            await until_serving(gateway, len(gateway.scheduler.core.placements))
        yield Serving(gateway, channel, inference_pb2_grpc.InferenceServiceStub(channel))


async def until_serving(gateway: RunningGateway, placements: int) -> None:
    """Waits until that many placements are in service."""
    states = gateway.scheduler.core.placements
    await until(lambda: sum(state.serving for state in states) == placements)


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something holds. Raises TimeoutError."""
    async with asyncio.timeout(READY_S):
        while not condition():
            await asyncio.sleep(0.01)


def chat_request(
    text: str = "Tell me a story.", **fields: object
) -> generation_pb2.GenerateRequest:
    """A chat of one user message; `fields` are further fields of the request."""
    message = chat_pb2.ChatMessage(role=chat_pb2.ROLE_USER, parts=[chat_pb2.ContentPart(text=text)])
    return generation_pb2.GenerateRequest(
        **{  # type: ignore[arg-type]
            "model": MODEL,
            "chat": chat_pb2.ChatInput(messages=[message]),
            "max_output_tokens": 16,
            **fields,
        }
    )


@dataclass(slots=True)
class Streamed:
    """A stream that was read to its end."""

    texts: dict[int, str]
    finish_reasons: dict[int, int]
    done: generation_pb2.Done | None
    messages: int


Call = grpc.aio.UnaryStreamCall[generation_pb2.GenerateRequest, generation_pb2.GenerateResponse]


async def first_message(call: Call) -> generation_pb2.GenerateResponse:
    """The next message of a stream that has one."""
    message = await call.read()
    assert isinstance(message, generation_pb2.GenerateResponse)
    return message


async def read_stream(call: Call) -> Streamed:
    """Reads a stream; checks that nothing follows `done`."""
    seen = Streamed({}, {}, None, 0)
    while (message := await call.read()) is not grpc.aio.EOF:
        assert isinstance(message, generation_pb2.GenerateResponse)
        assert seen.done is None, "a message after done"
        seen.messages += 1
        if message.WhichOneof("event") == "done":
            seen.done = message.done
            continue
        for choice in message.delta.choices:
            seen.texts[choice.index] = seen.texts.get(choice.index, "") + choice.text
            if choice.finish_reason:
                assert choice.index not in seen.finish_reasons, "a choice that ends twice"
                seen.finish_reasons[choice.index] = choice.finish_reason
    return seen


Detail = TypeVar("Detail", bound=Message)


def details(error: grpc.aio.AioRpcError) -> list[Message]:
    """The google.rpc details of a failed call, in order."""
    status = rpc_status.from_call(error)
    assert status is not None
    found: list[Message] = []
    for packed in status.details:
        message = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])()
        assert packed.Unpack(message)
        found.append(message)
    return found


def detail(error: grpc.aio.AioRpcError, kind: type[Detail]) -> Detail:
    """The one detail of this kind."""
    (found,) = (message for message in details(error) if isinstance(message, kind))
    return found


def trailer(error: grpc.aio.AioRpcError, name: str) -> str | bytes | None:
    """A trailer of a failed call; None: it has none of this name."""
    return dict(error.trailing_metadata() or ()).get(name)


def partial_output(
    error: grpc.aio.AioRpcError,
) -> tuple[error_details_pb2.ErrorInfo, generation_pb2.Usage]:
    """What a stream that broke after content tells: nobody may replay it blindly."""
    assert error.code() is grpc.StatusCode.UNAVAILABLE, error.details()
    info = detail(error, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == ("PARTIAL_OUTPUT", "moegate")
    assert trailer(error, "grpc-retry-pushback-ms") == "-1"
    usage = trailer(error, "moegate-usage-bin")
    assert isinstance(usage, bytes)
    return info, generation_pb2.Usage.FromString(usage)
