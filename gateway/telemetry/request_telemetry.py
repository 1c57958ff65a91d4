"""Telemetry of one request: its admission and attempt spans, its measurements, its log line."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from gateway.config.money import NANO_USD
from gateway.domain.failures import FailureKind
from gateway.domain.generation import Chunk, DeviationKind, Generation
from gateway.domain.outcomes import Finished, RequestOutcome
from gateway.pipeline.observer import AttemptAnswer
from gateway.pipeline.pipeline import DEADLINE_SLACK_S
from gateway.telemetry import attributes, semconv
from gateway.telemetry.call_record import CallRecord
from gateway.telemetry.instruments import Exemplar, Instruments
from gateway.telemetry.metric import Metric
from scheduler.contract import AttemptOutcome, PlacementKind, Refuse, Request, Start
from scheduler.fleet_view import FleetView
from scheduler.metering.settlement import SettledAttempt
from scheduler.port import AttemptEnd, BranchKind, Started

_DEVIATIONS = tuple(kind.value for kind in DeviationKind)


class RequestTelemetry:
    """A `RequestObserver`. It records spans only if the call is sampled, and always measures."""

    def __init__(
        self,
        record: CallRecord,
        request: Request,
        generation: Generation,
        *,
        key_id: str,
        tracer: Tracer | None,
        instruments: Instruments | None,
        fleet: Callable[[], FleetView],
        content: bool,
        clock: Callable[[], float],
    ) -> None:
        self.request = request
        self.generation = generation
        self.key_id = key_id
        self.attempts = 0
        self.last: tuple[Start, AttemptEnd, AttemptAnswer, SettledAttempt] | None = None
        self.result: Finished | None = None
        self.refusal: Refuse | None = None
        self.outcome = RequestOutcome.CANCELLED
        self.metered_nano_usd: int | None = 0
        """Sum over all attempts; None if the cost of one is unknown. The charge likewise."""
        self.charged_nano_usd: int | None = 0
        self._record = record
        self._instruments = instruments
        self._fleet = fleet
        self._clock = clock
        self._admission: Span | None = None
        self._waited_s = 0.0
        self._position = 0
        self._spans: dict[int, tuple[Span, attributes.Attributes]] = {}
        """Running attempts. Like those of every span, their attributes are set once, at the end."""
        self._texts: dict[int, list[str]] = {}
        recording = record.attributes is not None
        self._tracer = tracer if recording else None
        self.wants_content = content and recording
        self._exemplar: Exemplar | None = None
        if record.span is not None and record.attributes is not None:
            record.attributes |= attributes.of_request(request, generation, key_id)
            span = record.span
            self._exemplar = {"trace_id": trace.format_trace_id(span.get_span_context().trace_id)}

    @property
    def wants_decision(self) -> bool:
        """Whether a span will have the decision record."""
        return self._tracer is not None

    def queued(self, position: int) -> None:
        """Starts the admission span: the request waits for a decision."""
        if self._tracer is not None:
            self._admission = self._tracer.start_span(semconv.SPAN_ADMISSION, self._record.context)
            self._position = position

    def started(self, start: Start, waited_s: float) -> None:
        """Ends the admission: a placement was found."""
        self._count_decision(waited_s, "dispatched")

    def refused(self, refuse: Refuse, waited_s: float) -> None:
        """Ends the admission: the request was refused."""
        self.refusal = refuse
        if self._instruments is not None:
            labels = (self.request.model, self.request.slo.slo_class.value, refuse.reason.value)
            self._instruments.add(semconv.REFUSALS, 1, *labels)
        self._count_decision(waited_s, "refused")
        found: attributes.Attributes = {
            semconv.QUEUE_DURATION_S: waited_s,
            semconv.REFUSAL_REASON: refuse.reason.value,
        }
        if refuse.retry_after_s is not None:
            found[semconv.RETRY_AFTER_S] = refuse.retry_after_s
        self._end_admission("refused", found)

    def _end_admission(self, outcome: str, found: attributes.Attributes) -> None:
        span, self._admission = self._admission, None
        if span is not None:
            found[semconv.SLO_CLASS] = self.request.slo.slo_class.value
            found[semconv.QUEUE_POSITION] = self._position
            found[semconv.OUTCOME] = outcome
            span.set_attributes(found)
            span.end()

    def attempt(self, started: Started, kind: BranchKind, generation: Generation) -> Generation:
        """Starts the span of an attempt, which is the parent of the engine's spans."""
        start = started.start
        self.attempts += 1
        if self._instruments is not None and start.overflow is not None:
            labels = (self.request.model, start.placement, start.overflow.value)
            self._instruments.add(semconv.OVERFLOWS, 1, *labels)
        context = self._record.context
        if self._tracer is not None:
            if self._admission is not None and kind is not BranchKind.HEDGE:
                self._tell_decision(self._admission, started)
                self._end_admission("dispatched", {semconv.QUEUE_DURATION_S: self._waited_s})
            placement = self._fleet().by_name.get(start.placement)
            of = attributes.of_attempt(start, self.request, generation, placement)
            if self.wants_content:
                of[semconv.INPUT_MESSAGES] = attributes.input_messages(generation)
                self._texts[start.attempt] = []
            name = f"{attributes.operation(generation)} {self.request.model}"
            span = self._tracer.start_span(name, context, kind=SpanKind.CLIENT)
            self._spans[start.attempt] = (span, of)
            if kind is BranchKind.HEDGE:
                # A hedge starts at once or not at all, so that it has no admission span.
                self._tell_decision(span, started)
            context = trace.set_span_in_context(span, context)
        if context is None:
            return generation
        carrier: dict[str, str] = {}
        propagate.inject(carrier, context)
        hints = replace(generation.hints, trace_headers=tuple(carrier.items()))
        return replace(generation, hints=hints)

    def _tell_decision(self, span: Span, started: Started) -> None:
        start = started.start
        span.add_event(semconv.EVENT_DECISION, attributes.of_decision(start, started.decision))
        if start.kind is PlacementKind.REMOTE:
            model = self.request.model
            span.add_event(
                semconv.EVENT_OVERFLOW,
                {semconv.OVERFLOW_REASON: start.reason, semconv.REQUEST_MODEL: model},
            )

    def content(self, attempt: int, chunk: Chunk) -> None:
        """Records output, if content is recorded."""
        self._texts[attempt].extend(delta.text for delta in chunk.deltas if delta.index == 0)

    def attempt_ended(
        self, start: Start, end: AttemptEnd, answer: AttemptAnswer, account: SettledAttempt
    ) -> None:
        """Records the end of an attempt."""
        superseded = account.outcome is AttemptOutcome.SUPERSEDED
        if self.last is None or not superseded:
            self.last = (start, end, answer, account)
        self.metered_nano_usd = _sum(self.metered_nano_usd, account.metered_nano_usd)
        self.charged_nano_usd = _sum(self.charged_nano_usd, account.charged_nano_usd)
        if self._instruments is not None:
            self._measure_attempt(start, end, answer, account)
        if start.attempt not in self._spans:
            return
        span, found = self._spans.pop(start.attempt)
        found |= attributes.of_end(end, answer, account)
        if text := "".join(self._texts.pop(start.attempt, ())):
            found[semconv.OUTPUT_MESSAGES] = attributes.output_messages(text)
        if answer.failure is not None:
            found[semconv.ERROR_TYPE] = answer.failure.kind.name.lower()
            span.set_status(Status(StatusCode.ERROR, end.detail))
        elif account.outcome is AttemptOutcome.CANCELLED and self._is_late():
            found[semconv.ERROR_TYPE] = "deadline"
            span.set_status(Status(StatusCode.ERROR, "not complete by the deadline"))
        span.set_attributes(found)
        span.end()

    def finished(self, finished: Finished) -> None:
        """Records the times of a successful request."""
        self.result = finished
        if self._instruments is None:
            return
        labels = (
            attributes.operation(self.generation),
            semconv.PROVIDER_MOEGATE,
            self.request.model,
            self.request.slo.slo_class.value,
            attributes.route(finished.kind),
        )
        if finished.ttft_s is not None:
            self._observe(semconv.TTFT, finished.ttft_s, *labels)
        if finished.tpot_s is not None:
            self._observe(semconv.TPOT, finished.tpot_s, *labels)

    def ended(self, outcome: RequestOutcome) -> None:
        """Records the outcome of the request."""
        self.outcome = outcome

    def call_ended(self, duration_s: float) -> None:
        """Records the end of the call and sets the attributes of its span."""
        outcome = self.outcome.value
        if self._instruments is not None:
            self._observe(
                semconv.REQUEST_DURATION,
                duration_s,
                attributes.operation(self.generation),
                semconv.PROVIDER_MOEGATE,
                self.request.model,
                self.request.slo.slo_class.value,
                outcome,
                attributes.error_type(outcome),
            )
            self._count_slo()
        self._end_admission(outcome, {})  # where the client left while it waited
        found = self._record.attributes
        if found is not None:
            found[semconv.OUTCOME] = outcome
            found[semconv.ATTEMPTS] = self.attempts
            if self.last is not None:
                start, _, _, account = self.last
                found[semconv.PLACEMENT] = start.placement
                found[semconv.ROUTE] = attributes.route(start.kind)
                usage = account.usage
                if usage is not None:
                    found[semconv.USAGE_INPUT] = usage.prompt_tokens
                    found[semconv.USAGE_OUTPUT] = usage.completion_tokens
                for name, cost in (
                    (semconv.METERED_USD, self.metered_nano_usd),
                    (semconv.CHARGED_USD, self.charged_nano_usd),
                ):
                    if cost is not None:
                        found[name] = cost / NANO_USD
            if self.outcome is RequestOutcome.PARTIAL:
                found[semconv.PARTIAL_OUTPUT] = True

    def _count_slo(self) -> None:
        """Counts whether the request kept its service-level objective."""
        if self._instruments is None or self.outcome is RequestOutcome.CANCELLED:
            return
        result, slo = self.result, self.request.slo
        kept = (
            self.outcome is RequestOutcome.OK
            and result is not None
            and (result.ttft_s or 0.0) <= slo.ttft_s
            and (result.tpot_s or 0.0) <= slo.tpot_s
        )
        labels = self.request.model, slo.slo_class.value
        # Both begin at 0: a share needs both, and `rate` does not see the first of a series.
        for met, text in ((True, "true"), (False, "false")):
            self._instruments.add(semconv.SLO_REQUESTS, met is kept, *labels, text)

    def _is_late(self) -> bool:
        return self._clock() >= self.request.deadline_s - DEADLINE_SLACK_S

    def _count_decision(self, waited_s: float, outcome: str) -> None:
        self._waited_s = waited_s
        if self._instruments is not None:
            model, slo_class = self.request.model, self.request.slo.slo_class.value
            self._observe(semconv.QUEUE_DURATION, waited_s, model, slo_class, outcome)

    def _measure_attempt(
        self, start: Start, end: AttemptEnd, answer: AttemptAnswer, account: SettledAttempt
    ) -> None:
        instruments = self._instruments
        assert instruments is not None
        model, pool = self.request.model, attributes.pool_of(start)
        who = attributes.provider(start)
        operation = attributes.operation(self.generation)
        outcome = account.outcome.value
        late = answer.failure is not None and answer.failure.kind is FailureKind.DEADLINE
        if late or (account.outcome is AttemptOutcome.CANCELLED and self._is_late()):
            outcome = "deadline"
        self._observe(
            semconv.ATTEMPT_DURATION,
            account.ended_unix_s - account.started_unix_s,
            operation,
            who,
            model,
            pool,
            outcome,
            attributes.error_type(outcome),
        )
        if end.first_token_s is not None:
            self._observe(semconv.ATTEMPT_TTFC, end.first_token_s, operation, who, model, pool)
            if start.predicted_ttft_s:
                self._observe(semconv.TTFT_ERROR, end.first_token_s / start.predicted_ttft_s, pool)
        if end.tpot_s is not None and start.predicted_tpot_s:
            self._observe(semconv.TPOT_ERROR, end.tpot_s / start.predicted_tpot_s, pool)
        # Counted from 0 as well: without deviations the alert would have no data.
        instruments.begin(semconv.DEVIATIONS, start.placement, _DEVIATIONS)
        for deviation in answer.deviations:
            instruments.add(semconv.DEVIATIONS, 1, start.placement, deviation.kind.value)
        usage = account.usage
        tenant, where = instruments.tenant(account.tenant), attributes.route(start.kind)
        for kind, cost in (
            ("metered", account.metered_nano_usd),
            ("charged", account.charged_nano_usd),
        ):
            if cost:
                instruments.add(semconv.COST_USD, cost / NANO_USD, tenant, where, kind)
        # Counted from 0, because `rate` does not see the first increment of a new series.
        instruments.add(semconv.UNPRICED, account.metered_nano_usd is None, pool)
        if usage is None or account.outcome is not AttemptOutcome.OK:
            return
        counts = ("input", usage.prompt_tokens), ("output", usage.completion_tokens)
        for kind, tokens in counts:
            instruments.observe(semconv.TOKEN_USAGE, tokens, operation, kind, who, model, pool)
        if usage.cached_tokens is None:
            instruments.add(semconv.PROMPT_TOKENS, usage.prompt_tokens, pool, "unknown")
        else:
            missed = max(0, usage.prompt_tokens - usage.cached_tokens)
            instruments.add(semconv.PROMPT_TOKENS, usage.cached_tokens, pool, "hit")
            instruments.add(semconv.PROMPT_TOKENS, missed, pool, "miss")

    def _observe(self, metric: Metric, value: float, *labels: str) -> None:
        assert self._instruments is not None
        self._instruments.observe(metric, value, *labels, exemplar=self._exemplar)


def _sum(so_far: int | None, one: int | None) -> int | None:
    return None if so_far is None or one is None else so_far + one
