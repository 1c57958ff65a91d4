"""CPU of telemetry's own calls per request: interceptor, spans, measurements, log line, export.

By themselves, in one process and all its threads, so that a noisy machine cannot hide them as it
does in `benchmarks/serving/telemetry.py`, which measures whole gateways.

    python -m benchmarks.serving.telemetry_calls
"""

from __future__ import annotations

import asyncio
import io
import os
import time
from typing import Any

from benchmarks.serving.overhead import HERE, process
from gateway.config.telemetry import LogFormat
from gateway.domain.generation import Generation
from gateway.domain.outcomes import Finished, RequestOutcome
from gateway.doors.grpc.listening.rpc_observer import RpcObserver
from gateway.pipeline.observer import AttemptAnswer
from gateway.telemetry import logs
from gateway.telemetry.instruments import Instruments
from gateway.telemetry.observer import Telemetry
from gateway.telemetry.tracing import tracer_provider
from scheduler.contract import (
    AttemptOutcome,
    Fault,
    PlacementKind,
    Request,
    ServingChanged,
    Slo,
    SloClass,
    Start,
    Usage,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.decision_record import decision_record
from scheduler.decisions import Decision
from scheduler.fleet_view import PlacementView, fleet_view
from scheduler.metering.settlement import SettledAttempt
from scheduler.placement_state import Placement
from scheduler.port import AttemptEnd, BranchKind, Started
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100

REQUESTS = 3000
METHOD = "moegate.v1.InferenceService/Generate"
USAGE = Usage(prompt_tokens=50, completion_tokens=128, cached_tokens=0)
SLO = Slo(slo_class=SloClass.INTERACTIVE, ttft_s=2.0, tpot_s=0.05, max_queue_s=10.0)
REQUEST = Request(
    request_id="key/r",
    key_id="key",
    tenant="team",
    model="moe",
    arrival_s=0.0,
    deadline_s=1e9,
    slo=SLO,
    priority=0,
    prompt_tokens=50,
    max_output_tokens=128,
    choices=1,
    size_bytes=100,
    remote_classes=frozenset(),
)
GENERATION = Generation(request_id="r", model="moe", input="hi", max_output_tokens=128)
OWN = tuple(
    Placement(
        name=f"own/{name}",
        pool="own",
        kind=PlacementKind.SELF_HOSTED,
        model="moe",
        max_running=64,
        step_model=QWEN3_30B_H100,
        nano_usd_per_s=1_000_000,
    )
    for name in "abcd"
)


def decided() -> tuple[Start, Decision]:
    """What a scheduler says of the request, with four replicas to choose from."""
    limits = SchedulerLimits(queue=QueueLimits(requests=9, size_bytes=9999), attempts=1)
    core = Scheduler(OWN, limits)
    for place in OWN:
        core.handle(ServingChanged(placement=place.name, serving=True, reason="up"), 0.0)
    [action] = core.submit(REQUEST, 0.0)
    decision = core.decisions.get(REQUEST.request_id)
    assert isinstance(action, Start)
    assert decision is not None
    return action, decision


DISPATCH, DECISION = decided()
SETTLED = SettledAttempt(
    request_id="key/r",
    attempt=1,
    key_id="key",
    tenant="team",
    session_id="",
    model="moe",
    slo_class=SloClass.INTERACTIVE,
    placement="own/a",
    pool="own",
    kind=PlacementKind.SELF_HOSTED,
    outcome=AttemptOutcome.OK,
    started_unix_s=0.0,
    ended_unix_s=1.0,
    usage=USAGE,
    metered_nano_usd=5,
    charged_nano_usd=5,
    basis=None,
    price_row_id="",
    parts=(),
    cheapest_remote_nano_usd=None,
    final=True,
)
FLEET = fleet_view(
    (
        PlacementView(
            name="own/a",
            kind=PlacementKind.SELF_HOSTED,
            model="moe",
            pool="own",
            replica="a",
            group="own/a",
            address="http://127.0.0.1:8000",
            upstream_model="moe",
            serving=True,
            reason="",
            context_tokens=None,
        ),
    ),
    {},
)
END = AttemptEnd(
    request_id="key/r",
    attempt=1,
    outcome=AttemptOutcome.OK,
    detail="ok",
    usage=USAGE,
    reported=True,
    committed=True,
    may_be_continued=False,
    abandoned=False,
    duration_s=1.0,
    first_token_s=0.1,
    ttft_s=0.1,
    tpot_s=0.02,
    output_tokens=128,
    fault=Fault.NONE,
    retry_after_s=None,
)
ANSWER = AttemptAnswer(failure=None, model="moe", response_id="chatcmpl-3f1c", last=None)
FINISHED = Finished(
    model="moe",
    usage=USAGE,
    settled=SETTLED,
    kind=PlacementKind.SELF_HOSTED,
    placement="own/a",
    pool="own",
    replica="a",
    reason="least marginal cost",
    attempts=(),
    queue_s=0.0,
    ttft_s=0.1,
    tpot_s=0.02,
    total_s=1.0,
)


class Call:
    """What the interceptor asks of a context."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Of a usual client."""
        return ("authorization", "Bearer x"), ("user-agent", "grpc-python-asyncio/1.85.1")

    def peer(self) -> str:
        """Somewhere."""
        return "ipv4:127.0.0.1:50000"

    def code(self) -> None:
        """OK."""

    def details(self) -> str:
        """None."""
        return ""


async def calls_us(*, traces: bool, metrics: bool, json_log: bool) -> float:
    """CPU of one request's calls, µs."""
    provider = tracer_provider() if traces else None
    log_format, level = (LogFormat.JSON, "INFO") if json_log else (LogFormat.PLAIN, "ERROR")
    with logs.logging_to(io.StringIO(), log_format, level):
        telemetry = Telemetry(
            provider=provider,
            instruments=Instruments() if metrics else None,
            record_content=False,
            clock=time.perf_counter,
        )

        async def handle(_: object, __: object) -> None:
            observed = telemetry.observe(REQUEST, GENERATION, lambda: FLEET)
            observed.queued(0)
            observed.started(DISPATCH, 0.0)
            started = Started(start=DISPATCH, decision=decision_record(DECISION, lists=False))
            observed.attempt(started, BranchKind.ORIGINAL, GENERATION)
            observed.attempt_ended(DISPATCH, END, ANSWER, SETTLED)
            observed.finished(FINISHED)
            observed.ended(RequestOutcome.OK)

        serve: Any = handle
        if telemetry.is_on:
            observer = RpcObserver(telemetry.tracer, time.perf_counter, telemetry.rpc_ended)
            serve = observer._coroutine(METHOD, handle)
        bare_us = await _run_us(_nothing)
        started_us = await _run_us(serve)
        before_s = time.process_time()
        await telemetry.close()  # what is still to be sent belongs to the requests
        return started_us - bare_us + 1e6 * (time.process_time() - before_s) / REQUESTS


async def _nothing(_: object, __: object) -> None:
    pass


async def _run_us(serve: Any) -> float:
    before_s = time.process_time()
    for _ in range(REQUESTS):
        await asyncio.create_task(serve(None, Call()))
    return 1e6 * (time.process_time() - before_s) / REQUESTS


async def main() -> None:
    """Prints a line a case."""
    with process(str(HERE / "otlp_sink.py")) as (_, port):
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{port}"
        os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = str(8 * REQUESTS)
        for name, case in {
            "off": (False, False, False),
            "metrics": (False, True, False),
            "traces, all sampled": (True, False, False),
            "all: traces, metrics, JSON log": (True, True, True),
        }.items():
            traces, metrics, json_log = case
            us = await calls_us(traces=traces, metrics=metrics, json_log=json_log)
            print(f"{name}: {us:.0f} µs of CPU per request")


if __name__ == "__main__":
    asyncio.run(main())
