"""The demo's load: the outcome of each stream, and the rules of the API that a stream may break."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2

from moegate.demo.client_results import ClientResults, Outcome, RequestResult
from moegate.demo.load import LoadGenerator, request_message
from moegate.v1 import generation_pb2, inference_pb2_grpc
from scheduler.contract import SloClass
from simulation.workloads import PlannedRequest

Events = list[generation_pb2.GenerateResponse]
LOCAL, REMOTE = generation_pb2.PLACEMENT_KIND_LOCAL, generation_pb2.PLACEMENT_KIND_REMOTE


def planned(**fields: object) -> PlannedRequest:
    made = {
        "index": 3,
        "at_s": 0.0,
        "tenant": 0,
        "slo_class": SloClass.STANDARD,
        "prompt_tokens": 20,
        "prefix_tokens": 5,
        "output_tokens": 8,
        "local_only": True,
        "cancel_after_tokens": None,
        **fields,
    }
    return PlannedRequest(**made)  # type: ignore[arg-type]


def word(text: str = "w", finish: bool = False) -> generation_pb2.GenerateResponse:
    event = generation_pb2.GenerateResponse()
    reason = generation_pb2.FINISH_REASON_STOP if finish else 0
    event.delta.choices.add(text=text, finish_reason=reason)
    return event


def done(kind: generation_pb2.PlacementKind = LOCAL) -> generation_pb2.GenerateResponse:
    event = generation_pb2.GenerateResponse()
    event.done.usage.prompt_tokens, event.done.usage.completion_tokens = 20, 2
    event.done.route.kind = kind
    event.done.route.target, event.done.route.replica = "own", "a"
    event.done.cost.metered_nano_usd = 7
    return event


class Service(inference_pb2_grpc.InferenceServiceServicer):
    """Answers every request with the same events, then with an error if there is one."""

    def __init__(self, events: Events, error: tuple[grpc.StatusCode, str] | None) -> None:
        self._events = events
        self._error = error

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        for event in self._events:
            yield event
        if self._error is not None:
            code, reason = self._error
            status = status_pb2.Status(code=code.value[0], message="the message")
            detail = Any()
            detail.Pack(error_details_pb2.ErrorInfo(reason=reason))
            status.details.append(detail)
            context.set_trailing_metadata(
                (("grpc-status-details-bin", status.SerializeToString()),)
            )
            await context.abort(code, "the message")


async def result(
    events: Events, error: tuple[grpc.StatusCode, str] | None = None, **fields: object
) -> RequestResult:
    server = grpc.aio.server()
    service = Service(events, error)  # type: ignore[abstract]
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    results = ClientResults()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await LoadGenerator(channel, "moe", ["mg-key"], results).run([planned(**fields)])
    finally:
        await server.stop(None)
    assert results.submitted == 1
    [ended] = results.ended
    return ended


@pytest.mark.parametrize(
    ("kind", "outcome"), [(LOCAL, Outcome.OK_LOCAL), (REMOTE, Outcome.OK_REMOTE)]
)
async def test_a_complete_stream_has_what_its_done_says(
    kind: generation_pb2.PlacementKind, outcome: Outcome
) -> None:
    ended = await result([word(), word(finish=True), done(kind)])
    assert (ended.outcome, ended.code, ended.error) == (outcome, "", "")
    assert (ended.placement, ended.nano_usd, ended.output_tokens) == ("own/a", 7, 2)
    assert (ended.deltas, ended.max_output_tokens) == (2, 8)
    assert ended.ttft_s is not None
    assert ended.tpot_s is not None


@pytest.mark.parametrize(
    ("events", "violation"),
    [
        ([word(finish=True)], "OK without done"),
        ([word(), done()], "a choice without finish reason"),
        ([word(finish=True), word(finish=True), done()], "a choice that ends twice"),
        ([word(finish=True), done(), word()], "a message after done"),
    ],
)
async def test_a_stream_that_breaks_a_rule_has_failed(events: Events, violation: str) -> None:
    ended = await result(events)
    assert (ended.outcome, ended.error) == (Outcome.FAILED, f"protocol: {violation}")


@pytest.mark.parametrize(
    ("events", "code", "reason", "outcome", "error"),
    [
        ([], "RESOURCE_EXHAUSTED", "QUEUE_FULL", Outcome.REFUSED, "RESOURCE_EXHAUSTED QUEUE_FULL"),
        ([], "UNAVAILABLE", "UNAVAILABLE", Outcome.REFUSED, "UNAVAILABLE UNAVAILABLE"),
        ([word()], "UNAVAILABLE", "PARTIAL_OUTPUT", Outcome.BROKEN, "UNAVAILABLE PARTIAL_OUTPUT"),
        ([], "INTERNAL", "BUG", Outcome.FAILED, "INTERNAL BUG: the message"),
        (
            [word()],
            "RESOURCE_EXHAUSTED",
            "QUEUE_FULL",
            Outcome.FAILED,
            "RESOURCE_EXHAUSTED QUEUE_FULL: the message",
        ),
    ],
)
async def test_an_error_is_a_refusal_only_before_any_output(
    events: Events, code: str, reason: str, outcome: Outcome, error: str
) -> None:
    ended = await result(events, (grpc.StatusCode[code], reason))
    assert (ended.outcome, ended.code, ended.error) == (outcome, code, error)


async def test_a_client_cancels_after_the_planned_tokens() -> None:
    ended = await result([word()] * 5, cancel_after_tokens=2)
    assert (ended.outcome, ended.deltas) == (Outcome.CANCELLED, 2)


def test_requests_of_a_tenant_share_their_prefix_and_nothing_else() -> None:
    def texts(request: PlannedRequest) -> list[str]:
        message = request_message(request, "moe")
        return [part.text for message in message.chat.messages for part in message.parts]

    first, second = texts(planned(index=1)), texts(planned(index=2))
    assert first[0] == second[0] != texts(planned(tenant=1))[0]
    assert first[1] != second[1]
    assert len(texts(planned(prefix_tokens=0))) == 1
    assert request_message(planned(), "moe").data_policy.local_only
