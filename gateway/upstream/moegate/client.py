"""Client of another moegate: requests over one gRPC channel.

gRPC does not retry: the pipeline does. A stream that is left early, by a failure, a cancellation or
a deadline, cancels its call at once, and so the work of the other gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from gateway.config.gateway import TimeoutsConfig
from gateway.config.remote import Feature
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk, Generation
from gateway.domain.hops import HOPS_FIELD, HOPS_METADATA
from gateway.domain.pooling import EmbeddingInput, PoolingInput
from gateway.domain.slices import in_slices
from gateway.upstream.answer_bounds import bounds_of
from gateway.upstream.features import Capabilities
from gateway.upstream.http.answer_size import max_answer_bytes
from gateway.upstream.http.call import CallBounds
from gateway.upstream.http.connection import END_GRACE_S
from gateway.upstream.http.stream import stream_bounds, too_long
from gateway.upstream.moegate.failures import failure_of
from gateway.upstream.moegate.messages import MOEGATE_FEATURES, AnswerDecoder, generate_request
from gateway.upstream.moegate.pooling import Response, pooled_chunk, pooling_request
from gateway.upstream.session_hint import SessionHint
from gateway.upstream.token_estimate import estimated_prompt_tokens
from moegate.v1 import generation_pb2, inference_pb2_grpc

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""Largest message: log-probabilities of many tokens are large."""
KEEPALIVE_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
MAX_RECONNECT_MS = 5_000
"""Longest pause between two connection attempts, so that the trial of a circuit breaker finds a
server that is back."""
_SERVICE = '{"loadBalancingConfig": [{"round_robin": {}}]}'
"""Calls are spread over all gateways behind one name; DNS cannot set a retry policy."""
_STATES_ON_THE_WAY = (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING)

T = TypeVar("T")
Call = grpc.aio.UnaryStreamCall[generation_pb2.GenerateRequest, generation_pb2.GenerateResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the other gateway is. `tls`: root certificates (None: those of the system), private
    key and certificate chain."""

    target: str
    tls: tuple[bytes | None, bytes | None, bytes | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardingPolicy:
    """Fields sent to the other gateway beside the generation: see `OtherGatewayConfig`."""

    local_only: bool = False
    shared_classes: frozenset[str] = frozenset()
    tell_slo: bool = True
    max_priority: int = 0
    max_hops: int = 1


class MoegateClient:
    """One remote gateway. Server and connection errors raise UpstreamFailure.

    The channel is made at the first stream and serves all of them, until `close`. `capabilities`:
    by default `MOEGATE_FEATURES`; `headers`: further metadata of every call; `origin`: origin
    of signatures that come through it; `max_message_bytes`: of one message of an answer.
    """

    def __init__(
        self,
        *,
        address: Address,
        upstream_model: str,
        api_key: str | None,
        timeouts: TimeoutsConfig,
        origin: str = "",
        policy: ForwardingPolicy | None = None,
        capabilities: Capabilities | None = None,
        session_hint: SessionHint | None = None,
        headers: Mapping[str, str] | None = None,
        max_message_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._capabilities = capabilities or Capabilities(features=MOEGATE_FEATURES)
        self.origin = origin
        self._address = address
        self._upstream_model = upstream_model
        self._timeouts = timeouts
        self._session_hint = session_hint
        self._policy = policy or ForwardingPolicy()
        self._metadata = tuple((name.lower(), value) for name, value in (headers or {}).items())
        if api_key is not None:
            self._metadata += (("authorization", f"Bearer {api_key}"),)
        self._channel: grpc.aio.Channel | None = None
        self._closed = False
        self._streams = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def features(self) -> frozenset[Feature]:
        """Features that requests may use."""
        return self._capabilities.features

    def unsupported_fields(self, generation: Generation) -> tuple[str, ...]:
        """Fields of GenerateRequest that are set and that it cannot honour."""
        fields = self._capabilities.unsupported(self._capabilities.fitted(generation))
        too_far = generation.hops >= self._policy.max_hops
        return (*fields, HOPS_FIELD) if too_far else fields

    async def close_when_idle(self) -> None:
        """Ends the channel, once the last stream on it has ended."""
        await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        """Ends the channel, and calls that still run on it."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def stream(
        self, generation: Generation, *, deadline_s: float
    ) -> AsyncGenerator[Chunk, None]:
        """Chunks as they come; the last carries the usage. Vectors and scores come as one chunk.
        `deadline_s`: on the event loop's clock. Raises ValueError if the API cannot express the
        generation."""
        with self._counted():
            if isinstance(generation.input, PoolingInput):
                yield await self._pooled(generation, generation.input, deadline_s)
                return
            generation = self._capabilities.fitted(generation)
            now = asyncio.get_running_loop().time
            steps = generate_request(
                generation,
                self._upstream_model,
                origin=self.origin,
                session_id=self._session_id(generation),
                local_only=self._policy.local_only,
                shared_classes=self._policy.shared_classes,
                tell_slo=self._policy.tell_slo,
                max_priority=self._policy.max_priority,
            )
            request = await in_slices(steps)
            decoder = AnswerDecoder(
                generation.choices,
                lambda: estimated_prompt_tokens(generation),
                origin=self.origin,
                bounds=bounds_of(generation),
            )
            end_s = min(now() + self._timeouts.total_s, deadline_s)
            bounds = stream_bounds(self._timeouts, now(), deadline_s)
            received, max_bytes = 0, max_answer_bytes(generation)
            if bounds.next_s <= now():
                raise bounds.failure()
            channel = self._open()
            connected = await self._connect(channel, bounds)
            call: Call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(
                request, timeout=max(0.001, end_s - now()), metadata=self._call_metadata(generation)
            )
            try:
                while not decoder.ended:
                    try:
                        bounds.check_end(now())
                        message = await _read(call, bounds, connected)
                    except UpstreamFailure:
                        # Only the usage is missing: a whole answer is not thrown away for it.
                        if decoder.finished:
                            break
                        raise
                    if message is None:
                        break
                    received += message.ByteSize()
                    if received > max_bytes:
                        if decoder.finished:
                            break
                        raise too_long(max_bytes)
                    chunk = decoder.feed(message)
                    # The clock is read after the consumer's turn: the server was not silent then.
                    if chunk is not None:
                        yield chunk
                        bounds.record_output(now())
                    elif not decoder.finished:
                        bounds.record_life(now())
                yield decoder.end()
                if decoder.ended and not decoder.cut:
                    await _await_status(call)
            finally:
                call.cancel()  # no effect once it has ended

    async def _pooled(
        self, generation: Generation, pooling: PoolingInput, deadline_s: float
    ) -> Chunk:
        """Asks for vectors or scores, which come in one message."""
        now = asyncio.get_running_loop().time
        request = await in_slices(
            pooling_request(
                generation,
                pooling,
                self._upstream_model,
                local_only=self._policy.local_only,
                shared_classes=self._policy.shared_classes,
                tell_slo=self._policy.tell_slo,
                max_priority=self._policy.max_priority,
            )
        )
        end_s = min(now() + self._timeouts.total_s, deadline_s)
        bounds = stream_bounds(self._timeouts, now(), deadline_s)
        if bounds.next_s <= now():
            raise bounds.failure()
        channel = self._open()
        connected = await self._connect(channel, bounds)
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        method: Any = stub.Embed if isinstance(pooling, EmbeddingInput) else stub.Score
        call: grpc.aio.UnaryUnaryCall[Any, Response] = method(
            request, timeout=max(0.001, end_s - now()), metadata=self._call_metadata(generation)
        )
        try:
            response = await _within(call, bounds, connected)
        finally:
            call.cancel()  # no effect once it has ended
        return await in_slices(pooled_chunk(generation, pooling, response))

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._streams += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._streams -= 1
            if not self._streams:
                self._idle.set()

    def _open(self) -> grpc.aio.Channel:
        if self._closed:
            raise UpstreamFailure(FailureKind.CONNECT, "no connection: it was closed by a reload")
        if self._channel is None:
            target = self._address.target
            options = _options(self._timeouts, self._max_message_bytes)
            if self._address.tls is None:
                self._channel = grpc.aio.insecure_channel(target, options=options)
            else:
                credentials = grpc.ssl_channel_credentials(*self._address.tls)
                self._channel = grpc.aio.secure_channel(target, credentials, options=options)
        return self._channel

    async def _connect(self, channel: grpc.aio.Channel, bounds: CallBounds) -> bool:
        """Waits until the channel is connected, or has failed; the call then reports the reason."""
        connect_s = self._timeouts.connect_s
        until_s = min(asyncio.get_running_loop().time() + connect_s, bounds.next_s)
        try:
            async with asyncio.timeout_at(until_s):
                while (state := channel.get_state(try_to_connect=True)) in _STATES_ON_THE_WAY:
                    await channel.wait_for_state_change(state)
                return state is grpc.ChannelConnectivity.READY
        except TimeoutError:
            if until_s == bounds.next_s:
                raise bounds.failure() from None
            message = f"no connection within {connect_s:g} s"
            raise UpstreamFailure(FailureKind.CONNECT, message) from None

    def _session_id(self, generation: Generation) -> str:
        hint, session = self._session_hint, generation.session
        if hint is None or hint.body_field is None or session is None:
            return ""
        return hint.value(session)

    def _call_metadata(self, generation: Generation) -> tuple[tuple[str, str], ...]:
        hops = ((HOPS_METADATA, str(generation.hops + 1)),)
        return (*self._metadata, *hops, *generation.hints.trace_headers)


async def _read(
    call: Call, bounds: CallBounds, connected: bool = True
) -> generation_pb2.GenerateResponse | None:
    """The next message; None: the call ended without an error."""
    # One timer a message is cheap: a message holds what several frames of an engine do.
    message = await _within(call.read(), bounds, connected)
    if message is grpc.aio.EOF:
        return None
    if not isinstance(message, generation_pb2.GenerateResponse):
        raise UpstreamFailure(FailureKind.PROTOCOL, "a message of the stream cannot be decoded")
    return message


async def _within(answer: Awaitable[T], bounds: CallBounds, connected: bool) -> T:
    """What a call brings next. Raises UpstreamFailure."""
    try:
        async with asyncio.timeout_at(bounds.next_s):
            return await answer
    except TimeoutError:
        raise bounds.failure() from None
    except grpc.aio.AioRpcError as error:
        raise failure_of(error, connected=connected) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # This task was not cancelled: the channel was closed.
        raise UpstreamFailure(FailureKind.SERVER_ERROR, "the connection was closed") from None


async def _await_status(call: Call) -> None:
    """Lets a call end by itself, its answer being complete."""
    now_s = asyncio.get_running_loop().time()
    soon = CallBounds(now_s, first_s=END_GRACE_S, idle_s=END_GRACE_S, end_s=now_s + END_GRACE_S)
    with contextlib.suppress(UpstreamFailure):  # the answer is there, whatever the status
        while await _read(call, soon) is not None:
            pass


def _options(timeouts: TimeoutsConfig, max_message_bytes: int) -> tuple[tuple[str, int | str], ...]:
    """Channel arguments; gRPC ignores misspelt names silently."""
    first_backoff_ms = 200
    return (
        ("grpc.service_config", _SERVICE),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # Identity only: a small message would be inflated to the longest one before it is seen.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", first_backoff_ms),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_MS),
        # Bounds one connection attempt, TLS included.
        ("grpc.min_reconnect_backoff_ms", max(first_backoff_ms, round(timeouts.connect_s * 1000))),
    )
