"""The trail of one request: its admission and attempt spans, its measurements, its log line."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import grpc
from msgspec.structs import replace
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from gateway.domain.failures import FailureKind
from gateway.domain.generation import Chunk, Generation
from gateway.pipeline.trail import AttemptEnd
from gateway.telemetry import attributes, semconv
from gateway.telemetry.instruments import Exemplar, Instruments
from gateway.telemetry.rpc import DEADLINE_SLACK_S, RpcRecord
from gateway.translation.responses import Finished
from scheduler.contract import AttemptOutcome, PlacementKind, Refuse, Request, Start
from scheduler.decisions import Decision


class RequestTrail:
    """Watches one request. Without a sampled span it only measures."""

    def __init__(
        self,
        record: RpcRecord,
        request: Request,
        generation: Generation,
        *,
        key_id: str,
        tracer: Tracer | None,
        instruments: Instruments | None,
        targets: Mapping[str, tuple[str, str]],
        decision: Callable[[str], Decision | None],
        content: bool,
        clock: Callable[[], float],
    ) -> None:
        self.request = request
        self.generation = generation
        self.key_id = key_id
        self.attempts = 0
        self.last: tuple[Start, AttemptEnd] | None = None
        self.result: Finished | None = None
        self.refusal: Refuse | None = None
        self.metered_nano_usd: int | None = 0
        """Of all its attempts; None once one of them is unknown. The charge likewise."""
        self.charged_nano_usd: int | None = 0
        self._record = record
        self._instruments = instruments
        self._targets = targets
        self._clock = clock
        self._decision = decision
        self._admission: Span | None = None
        self._decided_id = ""
        """Of the dispatch that an admission span has told."""
        self._position = 0
        self._spans: dict[int, tuple[Span, attributes.Attributes]] = {}
        """Of attempts that run; like every span's, their attributes are set once, at the end."""
        self._texts: dict[int, list[str]] = {}
        recording = record.attributes is not None
        self._tracer = tracer if recording else None
        self.wants_content = content and recording
        self._exemplar: Exemplar | None = None
        if record.span is not None and record.attributes is not None:
            record.attributes |= attributes.of_request(request, generation, key_id)
            span = record.span
            self._exemplar = {"trace_id": trace.format_trace_id(span.get_span_context().trace_id)}

    def waits(self, position: int) -> None:
        """It waits for a decision."""
        if self._tracer is not None:
            self._admission = self._tracer.start_span(semconv.SPAN_ADMISSION, self._record.context)
            self._position = position

    def decided(self, action: Start | Refuse, waited_s: float) -> None:
        """The scheduler decided."""
        if isinstance(action, Refuse):
            self.refusal = action
        if self._instruments is not None:
            self._count_decision(action, waited_s)
        if self._admission is None:
            return
        found: attributes.Attributes = {semconv.QUEUE_DURATION_S: waited_s}
        if isinstance(action, Refuse):
            found[semconv.REFUSAL_REASON] = action.reason.value
            if action.retry_after_s is not None:
                found[semconv.RETRY_AFTER_S] = action.retry_after_s
            self._end_admission("refused", found)
        else:
            self._decided_id = action.request_id
            self._tell_decision(self._admission, action)
            self._end_admission("dispatched", found)

    def _end_admission(self, outcome: str, found: attributes.Attributes) -> None:
        span, self._admission = self._admission, None
        if span is not None:
            found[semconv.SLO_CLASS] = self.request.slo.slo_class.value
            found[semconv.QUEUE_POSITION] = self._position
            found[semconv.OUTCOME] = outcome
            span.set_attributes(found)
            span.end()

    def attempt(self, action: Start, generation: Generation) -> Generation:
        """An attempt starts, in a span of its own that the engine's spans hang on."""
        self.attempts += 1
        if self._instruments is not None and action.kind is PlacementKind.REMOTE:
            reason = "saturated" if "saturated" in action.reason else "not_served_here"
            self._instruments.add(
                semconv.OVERFLOWS, 1, self.request.model, action.placement, reason
            )
        context = self._record.context
        if self._tracer is not None:
            of = attributes.of_attempt(action, self.request, generation, self._targets)
            if self.wants_content:
                of[semconv.INPUT_MESSAGES] = attributes.input_messages(generation)
                self._texts[action.attempt] = []
            name = f"{attributes.operation(generation)} {self.request.model}"
            span = self._tracer.start_span(name, context, kind=SpanKind.CLIENT)
            self._spans[action.attempt] = (span, of)
            if action.request_id != self._decided_id:
                # A hedge: it starts at once or not at all, so it has no admission of its own.
                self._tell_decision(span, action)
            context = trace.set_span_in_context(span, context)
        if context is None:
            return generation
        carrier: dict[str, str] = {}
        propagate.inject(carrier, context)
        hints = replace(generation.hints, trace_headers=tuple(carrier.items()))
        return replace(generation, hints=hints)

    def _tell_decision(self, span: Span, action: Start) -> None:
        decision = self._decision(action.request_id)
        span.add_event(semconv.EVENT_DECISION, attributes.of_decision(action, decision))
        if action.kind is PlacementKind.REMOTE:
            model = self.request.model
            span.add_event(
                semconv.EVENT_OVERFLOW,
                {semconv.OVERFLOW_REASON: action.reason, semconv.REQUEST_MODEL: model},
            )

    def content(self, attempt: int, chunk: Chunk) -> None:
        """Output came, and may be recorded."""
        self._texts[attempt].extend(delta.text for delta in chunk.deltas if delta.index == 0)

    def ended(self, action: Start, end: AttemptEnd) -> None:
        """The attempt is over."""
        superseded = end.settled.outcome is AttemptOutcome.SUPERSEDED
        if self.last is None or not superseded:
            self.last = (action, end)
        self.metered_nano_usd = _sum(self.metered_nano_usd, end.settled.metered_nano_usd)
        self.charged_nano_usd = _sum(self.charged_nano_usd, end.settled.charged_nano_usd)
        if self._instruments is not None:
            self._measure_attempt(action, end)
        if action.attempt not in self._spans:
            return
        span, found = self._spans.pop(action.attempt)
        found |= attributes.of_end(end)
        if text := "".join(self._texts.pop(action.attempt, ())):
            found[semconv.OUTPUT_MESSAGES] = attributes.output_messages(text)
        if end.failure is not None:
            found[semconv.ERROR_TYPE] = end.failure.kind.name.lower()
            span.set_status(Status(StatusCode.ERROR, end.detail))
        elif end.settled.outcome is AttemptOutcome.CANCELLED and self._is_late():
            found[semconv.ERROR_TYPE] = "deadline"
            span.set_status(Status(StatusCode.ERROR, "not complete by the deadline"))
        span.set_attributes(found)
        span.end()

    def finished(self, finished: Finished) -> None:
        """The request ended well."""
        self.result = finished
        if self._instruments is None:
            return
        labels = (
            self.request.model,
            self.request.slo.slo_class.value,
            attributes.route(finished.kind),
        )
        if finished.ttft_s is not None:
            self._observe(semconv.TTFT, finished.ttft_s, *labels)
        if finished.tpot_s is not None:
            self._observe(semconv.TPOT, finished.tpot_s, *labels)

    def rpc_ended(self, code: grpc.StatusCode, duration_s: float) -> str:
        """The RPC is over, however it ended; returns its outcome in one word."""
        outcome = self._outcome(code)
        if self._instruments is not None:
            self._observe(
                semconv.REQUEST_DURATION,
                duration_s,
                attributes.operation(self.generation),
                self.request.model,
                self.request.slo.slo_class.value,
                outcome,
            )
        self._end_admission(outcome, {})  # where the client left while it waited
        found = self._record.attributes
        if found is not None:
            found[semconv.OUTCOME] = outcome
            found[semconv.ATTEMPTS] = self.attempts
            if self.last is not None:
                action, end = self.last
                found[semconv.PLACEMENT] = action.placement
                found[semconv.ROUTE] = attributes.route(action.kind)
                usage = end.settled.usage
                if usage is not None:
                    found[semconv.USAGE_INPUT] = usage.prompt_tokens
                    found[semconv.USAGE_OUTPUT] = usage.completion_tokens
                for name, cost in (
                    (semconv.METERED_USD, self.metered_nano_usd),
                    (semconv.CHARGED_USD, self.charged_nano_usd),
                ):
                    if cost is not None:
                        found[name] = cost / attributes.NANO
            if outcome == "partial":
                found[semconv.PARTIAL_OUTPUT] = True
        return outcome

    def _outcome(self, code: grpc.StatusCode) -> str:
        if code is grpc.StatusCode.OK:
            return "ok"
        if code is grpc.StatusCode.CANCELLED:
            return "cancelled"
        if self.refusal is not None and self.last is None:
            return "refused"
        if self.last is not None and self.last[1].committed and self.last[1].failure is not None:
            return "partial"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return "deadline"
        return "failed"

    def _is_late(self) -> bool:
        return self._clock() >= self.request.deadline_s - DEADLINE_SLACK_S

    def _count_decision(self, action: Start | Refuse, waited_s: float) -> None:
        assert self._instruments is not None
        request = self.request
        model, slo_class = request.model, request.slo.slo_class.value
        if isinstance(action, Refuse):
            self._instruments.add(semconv.REFUSALS, 1, model, slo_class, action.reason.value)
            outcome = "refused"
        else:
            outcome = "dispatched"
        self._observe(semconv.QUEUE_DURATION, waited_s, model, slo_class, outcome)

    def _measure_attempt(self, action: Start, end: AttemptEnd) -> None:
        instruments = self._instruments
        assert instruments is not None
        model, pool = self.request.model, attributes.pool_of(action.placement)
        who = attributes.provider(action)
        outcome = end.settled.outcome.value
        late = end.failure is not None and end.failure.kind is FailureKind.DEADLINE
        if late or (end.settled.outcome is AttemptOutcome.CANCELLED and self._is_late()):
            outcome = "deadline"
        self._observe(
            semconv.ATTEMPT_DURATION,
            end.settled.ended_unix_s - end.settled.started_unix_s,
            attributes.operation(self.generation),
            who,
            model,
            pool,
            outcome,
        )
        if end.ttft_s is not None:
            self._observe(semconv.ATTEMPT_TTFC, end.ttft_s, who, model, pool)
            if action.predicted_ttft_s:
                self._observe(semconv.TTFT_ERROR, end.ttft_s / action.predicted_ttft_s, pool)
        if end.tpot_s is not None and action.predicted_tpot_s:
            self._observe(semconv.TPOT_ERROR, end.tpot_s / action.predicted_tpot_s, pool)
        settled, usage = end.settled, end.settled.usage
        tenant, where = instruments.tenant(settled.tenant), attributes.route(action.kind)
        for kind, cost in (
            ("metered", settled.metered_nano_usd),
            ("charged", settled.charged_nano_usd),
        ):
            if cost:
                instruments.add(semconv.COST_USD, cost / attributes.NANO, tenant, where, kind)
        # Counted from 0: a series that begins with its first case hides that case from `rate`.
        instruments.add(semconv.UNPRICED, settled.metered_nano_usd is None, pool)
        if usage is None or settled.outcome is not AttemptOutcome.OK:
            return
        instruments.observe(semconv.TOKEN_USAGE, usage.prompt_tokens, "input", who, model, pool)
        instruments.observe(
            semconv.TOKEN_USAGE, usage.completion_tokens, "output", who, model, pool
        )
        if usage.cached_tokens is None:
            instruments.add(semconv.PROMPT_TOKENS, usage.prompt_tokens, pool, "unknown")
        else:
            missed = max(0, usage.prompt_tokens - usage.cached_tokens)
            instruments.add(semconv.PROMPT_TOKENS, usage.cached_tokens, pool, "hit")
            instruments.add(semconv.PROMPT_TOKENS, missed, pool, "miss")

    def _observe(self, metric: semconv.Metric, value: float, *labels: str) -> None:
        assert self._instruments is not None
        self._instruments.observe(metric, value, *labels, exemplar=self._exemplar)


def _sum(so_far: int | None, one: int | None) -> int | None:
    return None if so_far is None or one is None else so_far + one
