"""Runs the messages of a batch: each as GenerateOnce would answer it, without a connection."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from msgspec import structs

from gateway.batch.intake import BEGINNING_BYTES, BadLine, ItemHead
from gateway.batch.jobs import Item
from gateway.batch.quotes import ItemQuote, ItemRefused, item_quote
from gateway.batch.running.execution import ItemAnswer, ItemCall
from gateway.batch.running.retries import Retry, retry_of
from gateway.domain.choice_assembler import ChoiceAssembler
from gateway.domain.failures import UpstreamFailure
from gateway.domain.outcomes import Finished, PartialOutput, RequestRefused
from gateway.domain.slices import in_slices
from gateway.doors.grpc import errors
from gateway.doors.grpc.calls import batch_call
from gateway.pipeline.call import GenerateCall
from gateway.pipeline.pipeline import Pipeline
from gateway.translation.responses import write_choice, write_done
from moegate.v1 import batch_pb2, inference_pb2

_ENDS = (RequestRefused, PartialOutput, UpstreamFailure)
CANCELLED_CODE, EXPIRED_CODE, INTERNAL_CODE = 1, 4, 13
_CODES = {"batch_cancelled": CANCELLED_CODE, "batch_expired": EXPIRED_CODE, "key_removed": 16}


class MessageExecution:
    """Implements `Execution` for messages of SubmitBatch."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def read(self, content: bytes, endpoint: str) -> ItemHead:
        """See `Execution`."""
        try:
            message = batch_pb2.SubmitBatchRequest.FromString(content)
        except DecodeError:
            raise BadLine("invalid_request", "the message cannot be read") from None
        request = message.request.SerializeToString(deterministic=True)
        return ItemHead(message.item_id, message.request.model, request[:BEGINNING_BYTES])

    async def run(self, call: ItemCall) -> ItemAnswer:
        """See `Execution`."""
        message = batch_pb2.SubmitBatchRequest.FromString(call.content)
        answer = batch_pb2.StreamBatchResultsResponse(item_id=call.item.custom_id)
        finished: Finished | None = None
        retry: Retry | None = None
        try:
            finished = await self._generate(message, call, answer.response)
        except errors.RpcError as error:
            _write_error(answer, error)
        except _ENDS as error:
            retry = retry_of(error)
            _write_error(answer, errors.from_outcome(error))
        return ItemAnswer.of(
            answer.SerializeToString(), finished, is_ok=finished is not None, retry=retry
        )

    async def _generate(
        self,
        message: batch_pb2.SubmitBatchRequest,
        call: ItemCall,
        response: inference_pb2.GenerateOnceResponse,
    ) -> Finished:
        """Runs the request, and writes its answer into `response`. Raises RpcError, or an outcome
        of the pipeline."""
        asked = await self._call(message, call)
        choices = ChoiceAssembler()
        finished: Finished | None = None
        async with aclosing(self._pipeline.run(asked)) as outputs:
            async for output in outputs:
                if isinstance(output, Finished):
                    finished = output
                    write_done(response.done, call.request_id, output)
                else:
                    for delta in output.deltas:
                        choices.add(delta)
        for choice in choices.choices():
            write_choice(response.choices.add(), choice)
        assert finished is not None
        return finished

    async def quote(self, call: ItemCall) -> ItemQuote:
        """See `Execution`."""
        message = batch_pb2.SubmitBatchRequest.FromString(call.content)
        try:
            decision, _ = await self._pipeline.quote(await self._call(message, call))
        except (errors.RpcError, RequestRefused) as error:
            text = error.message if isinstance(error, errors.RpcError) else str(error)
            raise ItemRefused(text) from error
        return item_quote(decision)

    async def _call(self, message: batch_pb2.SubmitBatchRequest, call: ItemCall) -> GenerateCall:
        """Raises RpcError."""
        proto = message.request
        default = self._pipeline.default_output_tokens(proto.model, call.caller, proto.choices)
        made = await in_slices(batch_call(proto, call, default_max_output_tokens=default))
        return structs.replace(made, on_start=lambda _: call.on_start())

    def failed(self, job_id: str, item: Item, code: str, message: str) -> bytes:
        """See `Execution`."""
        answer = batch_pb2.StreamBatchResultsResponse(item_id=item.custom_id)
        answer.error.code = _CODES.get(code, INTERNAL_CODE)
        answer.error.message = message
        answer.error.reason = code.upper()
        return answer.SerializeToString()


def _write_error(answer: batch_pb2.StreamBatchResultsResponse, error: errors.RpcError) -> None:
    answer.error.code = error.code.value[0]
    answer.error.message = error.message
    answer.error.reason = _reason(error.trailing_metadata())


def _reason(trailers: Iterable[tuple[str, str | bytes]]) -> str:
    """The reason of the ErrorInfo among the details; empty: there is none."""
    for name, value in trailers:
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return ""
