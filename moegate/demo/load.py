"""The load of the demo: replays a workload over real gRPC stubs and records every request.

The loop is open: a request is sent when it is due, whatever happened to earlier ones. The clients
do not retry, so that every refusal is counted once. Every call has a deadline, so that the load
ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from moegate.demo.client_results import ClientResults, Outcome, RequestResult
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2_grpc
from scheduler.contract import SloClass
from simulation.workloads import PlannedRequest

DEADLINE_S = 60.0
"""Deadline of every call: the load ends at most this long after its last arrival."""
TOKEN = "word"
"""Text of about one token, together with the space that follows it."""

_CLASSES = {
    SloClass.INTERACTIVE: generation_pb2.SLO_CLASS_INTERACTIVE,
    SloClass.STANDARD: generation_pb2.SLO_CLASS_STANDARD,
    SloClass.BATCH: generation_pb2.SLO_CLASS_BATCH,
}
_REFUSALS = frozenset(
    {
        *("QUEUE_FULL", "QUEUE_TIMEOUT", "DEADLINE", "KEY_LIMIT", "SHED"),
        *("UNAVAILABLE", "ATTEMPTS_EXHAUSTED"),
    }
)
"""Reasons in google.rpc.ErrorInfo with which the gateway refuses a valid request."""


@dataclass(slots=True)
class _Stream:
    """The part of one stream that was received. `violation`: the rule of the API that it broke."""

    sent_s: float
    deltas: int = 0
    first_s: float | None = None
    last_s: float = 0.0
    finished: set[int] = field(default_factory=set)
    done: generation_pb2.Done | None = None
    violation: str = ""

    def record(self, event: generation_pb2.GenerateResponse, now: float) -> bool:
        """Records a message. True if it has content."""
        if self.done is not None:
            self.violation = "a message after done"
        if event.HasField("done"):
            self.done = event.done
            return False
        has_content = False
        for choice in event.delta.choices:
            has_content = has_content or bool(choice.text or choice.reasoning_text)
            if choice.finish_reason:
                if choice.index in self.finished:
                    self.violation = "a choice that ends twice"
                self.finished.add(choice.index)
        if has_content:
            self.deltas += 1
            self.last_s = now
            if self.first_s is None:
                self.first_s = now
        return has_content


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """`code`: gRPC status code; empty if the call ended with OK. `error`: a text for the report."""

    code: str = ""
    error: str = ""


_NO_FAILURE = _Failure()


class LoadGenerator:
    """Sends the planned requests, those of each tenant with its own key."""

    def __init__(
        self, channel: grpc.aio.Channel, model: str, keys: Sequence[str], results: ClientResults
    ) -> None:
        self._stub = inference_pb2_grpc.InferenceServiceStub(channel)
        self._model = model
        self._keys = keys
        self._results = results

    async def run(self, planned: Sequence[PlannedRequest]) -> None:
        """Sends all requests, and returns when all have ended."""
        clock = asyncio.get_running_loop().time
        start_s = clock()
        async with asyncio.TaskGroup() as group:
            for request in planned:
                await asyncio.sleep(max(0.0, start_s + request.at_s - clock()))
                self._results.submitted += 1
                group.create_task(self._send(request))

    async def _send(self, planned: PlannedRequest) -> None:
        clock = asyncio.get_running_loop().time
        stream = _Stream(sent_s=clock())
        metadata = (("authorization", f"Bearer {self._keys[planned.tenant]}"),)
        call = self._stub.Generate(
            request_message(planned, self._model), metadata=metadata, timeout=DEADLINE_S
        )
        outcome, failure = Outcome.FAILED, _NO_FAILURE
        try:
            async for event in call:
                self._results.deltas += stream.record(event, clock())
                if stream.deltas == planned.cancel_after_tokens and call.cancel():
                    outcome = Outcome.CANCELLED
                    break
            else:
                outcome, failure = _complete(stream)
        except grpc.aio.AioRpcError as error:
            outcome, failure = _failure(error, stream)
        self._results.end(_result(planned, stream, outcome, failure, clock()))


def request_message(planned: PlannedRequest, model: str) -> generation_pb2.GenerateRequest:
    """Makes the request: a system message for its tenant, and a question of its own."""
    user_tokens = planned.prompt_tokens - planned.prefix_tokens
    chat = chat_pb2.ChatInput()
    if planned.prefix_tokens:
        prefix = _text(f"tenant {planned.tenant}", planned.prefix_tokens)
        chat.messages.add(role=chat_pb2.ROLE_SYSTEM, parts=[chat_pb2.ContentPart(text=prefix)])
    question = _text(f"request {planned.index}", user_tokens)
    chat.messages.add(role=chat_pb2.ROLE_USER, parts=[chat_pb2.ContentPart(text=question)])
    return generation_pb2.GenerateRequest(
        model=model,
        chat=chat,
        max_output_tokens=planned.output_tokens,
        slo=generation_pb2.Slo(slo_class=_CLASSES[planned.slo_class]),
        session_id=f"tenant-{planned.tenant}",
        data_policy=generation_pb2.DataPolicy(local_only=planned.local_only),
    )


def _text(start: str, tokens: int) -> str:
    return " ".join(islice(cycle((start, TOKEN, TOKEN, TOKEN)), max(1, tokens)))


def _complete(stream: _Stream) -> tuple[Outcome, _Failure]:
    """The outcome of a stream that ended with OK. It has failed if it broke a rule of the API."""
    violation = stream.violation
    if stream.done is None:
        violation = violation or "OK without done"
    elif not stream.finished:
        violation = violation or "a choice without finish reason"
    if violation or stream.done is None:
        return Outcome.FAILED, _Failure(error=f"protocol: {violation}")
    local = stream.done.route.kind == generation_pb2.PLACEMENT_KIND_LOCAL
    return (Outcome.OK_LOCAL if local else Outcome.OK_REMOTE), _NO_FAILURE


def _failure(error: grpc.aio.AioRpcError, stream: _Stream) -> tuple[Outcome, _Failure]:
    """The outcome of a stream that ended with an error, by the reason in its google.rpc details."""
    reason = _reason(error)
    code = error.code().name
    failure = _Failure(code=code, error=f"{code} {reason}".strip())
    if reason == "PARTIAL_OUTPUT":
        return Outcome.BROKEN, failure
    if reason in _REFUSALS and not stream.deltas:
        return Outcome.REFUSED, failure
    # For an unexpected failure the message adds information to the reason.
    return Outcome.FAILED, _Failure(code=code, error=f"{failure.error}: {error.details()}")


def _reason(error: grpc.aio.AioRpcError) -> str:
    try:
        # The function takes any call; its annotation knows only the synchronous ones.
        status = rpc_status.from_call(error)  # type: ignore[arg-type, unused-ignore]
    except (ValueError, DecodeError):
        return ""
    info = error_details_pb2.ErrorInfo()
    found = any(detail.Unpack(info) for detail in (status.details if status else ()))
    return info.reason if found else ""


def _result(
    planned: PlannedRequest, stream: _Stream, outcome: Outcome, failure: _Failure, now: float
) -> RequestResult:
    done = stream.done or generation_pb2.Done()
    usage, route, cost = done.usage, done.route, done.cost
    output_tokens = usage.completion_tokens
    placement = f"{route.target}/{route.replica}" if route.replica else route.target
    ttft_s = None if stream.first_s is None else stream.first_s - stream.sent_s
    tpot_s = None
    if stream.first_s is not None and output_tokens > 1:
        tpot_s = (stream.last_s - stream.first_s) / (output_tokens - 1)
    return RequestResult(
        outcome=outcome,
        slo_class=planned.slo_class.value,
        sent_s=stream.sent_s,
        at_s=now,
        code=failure.code,
        error=failure.error,
        placement=placement,
        reason=route.reason,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=output_tokens,
        nano_usd=cost.metered_nano_usd if cost.HasField("metered_nano_usd") else None,
        deltas=stream.deltas,
        max_output_tokens=planned.output_tokens,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
    )
