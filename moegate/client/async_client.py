"""The client for asyncio. `sync_client.py` is the same for programs without it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from moegate.client.answers import Answer, AnswerAssembler, Piece
from moegate.client.batches import (
    Batch,
    BatchItem,
    BatchResult,
    batch_of,
    file_messages,
    result_of,
    submit_messages,
)
from moegate.client.connection import DEFAULT_TARGET, Tls, call_metadata, channel_options
from moegate.client.errors import error_of
from moegate.client.generation_options import GenerationOptions, generate_request
from moegate.client.messages import Chat
from moegate.client.pooling import (
    Embeddings,
    Inputs,
    PoolingOptions,
    Scores,
    embed_request,
    embeddings_of,
    score_request,
    scores_of,
)
from moegate.client.reports import (
    Candidate,
    Explanation,
    Group,
    Model,
    Spend,
    TokenCount,
    candidates_of,
    explanation_of,
    models_of,
    spend_of,
    spend_request,
    token_count_of,
)
from moegate.v1 import batch_pb2, batch_pb2_grpc, inference_pb2, inference_pb2_grpc, usage_pb2_grpc

Found = TypeVar("Found")
SHORT_TIMEOUT_S = 30.0
"""For calls that generate nothing."""


class AsyncClient:
    """A connection to a gateway. Tasks of one loop may share it. Close it, or use `async with`.

    Every method raises MoegateError if the gateway refuses or fails, and ValueError or TypeError
    for an argument that cannot be sent.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        key: str | None = None,
        tls: Tls | None = None,
        timeout_s: float = 600.0,
        attempts: int = 4,
    ) -> None:
        """`target`: host and port. `key`: None: the environment's MOEGATE_API_KEY. `tls`: None:
        plain text. `timeout_s`: for a whole answer. `attempts`: of a refused call, at most 5."""
        self._metadata = call_metadata(key)
        self._timeout_s = timeout_s
        options = channel_options(attempts)
        self._channel = (
            grpc.aio.insecure_channel(target, options)
            if tls is None
            else grpc.aio.secure_channel(target, tls.credentials(), options)
        )
        self._inference = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self._batch = batch_pb2_grpc.BatchServiceStub(self._channel)
        self._usage = usage_pb2_grpc.UsageServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. Running calls are cancelled."""
        await self._channel.close()

    async def chat(self, model: str, chat: Chat, **options: Unpack[GenerationOptions]) -> Answer:
        """Returns the whole answer to a chat."""
        request = generate_request(model, chat, options)
        once = inference_pb2.GenerateOnceRequest(request=request)
        found = await self._call(self._inference.GenerateOnce, once, self._timeout_s)
        assembler = AnswerAssembler()
        assembler.add_choices(found.choices)
        assembler.finish(found.done)
        return assembler.answer()

    def stream(self, model: str, chat: Chat, **options: Unpack[GenerationOptions]) -> AsyncStream:
        """Returns the answer as it comes: an iterator, to be closed if it is left early."""
        request = generate_request(model, chat, options)
        call = self._inference.Generate(request, metadata=self._metadata, timeout=self._timeout_s)
        return AsyncStream(call)

    async def embed(
        self, model: str, inputs: Inputs, **options: Unpack[PoolingOptions]
    ) -> Embeddings:
        """Returns one vector per input: texts, or token ids of each."""
        request = embed_request(model, inputs, options)
        return embeddings_of(await self._call(self._inference.Embed, request, self._timeout_s))

    async def score(
        self, model: str, query: str, documents: Sequence[str], **options: Unpack[PoolingOptions]
    ) -> Scores:
        """Returns how well each document answers the query."""
        request = score_request(model, query, documents, options)
        return scores_of(await self._call(self._inference.Score, request, self._timeout_s))

    async def count_tokens(
        self, model: str, chat: Chat, **options: Unpack[GenerationOptions]
    ) -> TokenCount:
        """Returns the tokens of the chat's prompt."""
        request = inference_pb2.CountTokensRequest(request=generate_request(model, chat, options))
        return token_count_of(await self._call(self._inference.CountTokens, request))

    async def models(self) -> tuple[Model, ...]:
        """Returns the models that the key may use."""
        request = inference_pb2.ListModelsRequest()
        return models_of(await self._call(self._inference.ListModels, request))

    async def quote(
        self, model: str, chat: Chat, **options: Unpack[GenerationOptions]
    ) -> tuple[Candidate, ...]:
        """Returns where the request would run now, when and at what cost, best first."""
        request = inference_pb2.QuoteRequest(request=generate_request(model, chat, options))
        found = await self._call(self._inference.Quote, request)
        return candidates_of(found.candidates)

    async def explain(self, request_id: str, *, key_id: str = "") -> Explanation:
        """Returns why a recent request ran where it did. `key_id`: of another key; operators."""
        request = inference_pb2.ExplainRequest(request_id=request_id, key_id=key_id)
        return explanation_of(await self._call(self._inference.Explain, request))

    async def spend(
        self,
        by: Sequence[Group] = ("model",),
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        tenant: str = "",
        model: str = "",
        limit: int = 1000,
        label: str = "",
    ) -> Spend:
        """Returns what was spent, by group. `since`: None: 30 days before `until`, None: now.
        `label`: key of the label of the group "label", which has only requests with the label."""
        request = spend_request(by, since, until, tenant, model, limit, label)
        return spend_of(await self._call(self._usage.GetSpend, request))

    async def submit_batch(
        self,
        items: Iterable[BatchItem],
        *,
        complete_before: datetime | None = None,
        max_cost_nano_usd: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Batch:
        """Hands in an offline job. `complete_before`: None: within a day. `max_cost_nano_usd`: of
        all items together."""
        messages = submit_messages(items, complete_before, max_cost_nano_usd, metadata or {})
        return batch_of(
            (await self._call(self._batch.SubmitBatch, messages, self._timeout_s)).batch
        )

    async def submit_batch_file(
        self,
        content: Iterable[bytes],
        endpoint: str = "/v1/chat/completions",
        *,
        complete_before: datetime | None = None,
        max_cost_nano_usd: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Batch:
        """Hands in a file in the format of OpenAI's Batch API, such as an open one: its bytes in
        pieces of any size."""
        pairs = metadata or {}
        messages = file_messages(content, endpoint, complete_before, max_cost_nano_usd, pairs)
        return batch_of(
            (await self._call(self._batch.SubmitBatch, messages, self._timeout_s)).batch
        )

    async def batch(self, batch_id: str) -> Batch:
        """Returns the state of a job."""
        request = batch_pb2.GetBatchRequest(batch_id=batch_id)
        return batch_of((await self._call(self._batch.GetBatch, request)).batch)

    async def batches(self, limit: int = 100) -> tuple[Batch, ...]:
        """Returns the newest jobs of the key's tenant, 1000 at most."""
        request = batch_pb2.ListBatchesRequest(page_size=limit)
        found = await self._call(self._batch.ListBatches, request)
        return tuple(map(batch_of, found.batches))

    async def cancel_batch(self, batch_id: str) -> Batch:
        """Stops a job."""
        request = batch_pb2.CancelBatchRequest(batch_id=batch_id)
        return batch_of((await self._call(self._batch.CancelBatch, request)).batch)

    async def batch_results(
        self, batch_id: str, *, skip: int = 0, in_order: bool = False
    ) -> AsyncIterator[BatchResult]:
        """Yields results as they finish, until the job has ended; `in_order`: as submitted, once it
        has. `skip`: results to leave out, to go on after a break."""
        request = batch_pb2.StreamBatchResultsRequest(
            batch_id=batch_id, skip=skip, in_order=in_order
        )
        try:
            async for message in self._batch.StreamBatchResults(request, metadata=self._metadata):
                yield result_of(message)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error

    async def _call(
        self,
        method: Callable[..., Awaitable[Found]],
        request: Any,
        timeout_s: float = SHORT_TIMEOUT_S,
    ) -> Found:
        try:
            return await method(request, metadata=self._metadata, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error


class AsyncStream:
    """An answer as it comes. Iterate over its pieces; then `answer` is whole.

    Closing it, or leaving its `async with` block, cancels the request, and so the engine's work.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._assembler = AnswerAssembler()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        try:
            async for event in self._call:
                for piece in self._assembler.add(event):
                    yield piece
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self._assembler.answer()) from error
        finally:
            self.close()

    @property
    def answer(self) -> Answer:
        """The answer so far; whole after the last piece."""
        return self._assembler.answer()

    def close(self) -> None:
        """Cancels the request, if it still runs."""
        self._call.cancel()
