"""Frames of an OpenAI-shaped stream into chunks: a state machine without I/O.

A stream is complete when every choice has a finish reason; choices that a server never began are
missing, not cut. `[DONE]` does not show completeness: vLLM sends it after an error in the stream,
too. An event that strict decoding refuses is read leniently, so that a field that is not understood
costs that field. The usage is reported at the end, from the largest counts that came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import (
    MAX_ID_CHARACTERS,
    ChoiceDelta,
    Chunk,
    Deviation,
    DeviationKind,
)
from gateway.upstream.answer_bounds import UNBOUNDED, AnswerBounds, shortened
from gateway.upstream.http.failures import error_event, failure_of_event, is_blank
from gateway.upstream.lenient import Fitting, NotJson, is_heartbeat, read_json
from gateway.upstream.openai import wire
from gateway.upstream.openai.choice import ChoiceDecoder
from gateway.upstream.openai.usage import UsageTotals, claim_of, engine_times
from gateway.upstream.token_estimate import estimated_tokens
from gateway.upstream.usage_claims import Claim, Seen, judged, larger
from scheduler.engine_steps import EngineTimes

_DONE = ("[DONE]", "DONE", '"[DONE]"')


class StreamDecoder:
    """Decodes one stream: `feed` it payloads until `ended` or the end of input, then call `end`.

    `choices`: how many were requested. `prompt_tokens`: estimates them, called if no usage comes.
    `usage_by_choice`: the usage in an event with one choice is that of the choice, and its counts
    are those of the tokens so far (vLLM's continuous_usage_stats). `origin`: of the signatures;
    empty: none are kept. `bounds`: what the answer can hold at most. `is_stage`: the answer is
    that of an engine that only decodes, to which the whole prompt comes as if from a cache, so that
    cached tokens and the engine's time of the whole request are unknown.

    Attributes:
        ended: [DONE], a failure or too much output came, so that nothing that follows matters.
        started: the first token has come.
    """

    last_event = b"[DONE]"

    def __init__(
        self,
        choices: int,
        *,
        prompt_tokens: Callable[[], int],
        usage_by_choice: bool = False,
        origin: str = "",
        bounds: AnswerBounds = UNBOUNDED,
        is_stage: bool = False,
    ) -> None:
        self._is_stage = is_stage
        self._choices = [
            ChoiceDecoder(index, origin, bounds.tool_names) for index in range(choices)
        ]
        self._only_index = 0
        self._usage_by_choice = usage_by_choice
        self._estimated_prompt_tokens = prompt_tokens
        self._bounds = bounds
        self._ample_bytes = bounds.ample_bytes
        self._most_tokens = bounds.believed_output_tokens
        self._totals = UsageTotals()
        self._running: wire.Usage | None = None
        self._claims: dict[int, Claim] = {}
        self._failure: UpstreamFailure | None = None
        self._unread: str | None = None
        self._complete = self._cut = False
        self._engine: EngineTimes | None = None
        self.ended = False
        self.started = False
        self._output_tokens = 0
        self._model = self._response_id = ""

    @property
    def finished(self) -> bool:
        """Whether every choice has its finish reason, and no failure came."""
        return self._failure is None and all(choice.finished for choice in self._choices)

    def feed(self, payloads: Iterable[bytes]) -> Chunk | None:
        """New output of these payloads, merged by choice; None: there is none.

        A failure is raised by `end`, so that the output before it is not lost.
        """
        for payload in payloads:
            if self.ended:
                break
            if payload == b"[DONE]":
                self.ended = self._complete = True
            elif payload:
                try:
                    self._add_payload(payload)
                except UpstreamFailure as failure:
                    self._fail(failure)
        deltas, output_tokens = [], 0
        for choice in self._choices:
            output_tokens += choice.output_tokens
            if choice.has_new_output:
                deltas.append(choice.pop_delta())
                if choice.output_bytes > self._ample_bytes:
                    self._check_size(choice, deltas)
        # A server may count less than before; counts that were reported never fall.
        output_tokens = max(self._output_tokens, min(output_tokens, self._most_tokens))
        if not deltas and output_tokens == self._output_tokens:
            return None
        self._output_tokens = output_tokens
        self.started = (
            self.started or output_tokens > 0 or any(choice.finished for choice in self._choices)
        )
        return Chunk(
            deltas=tuple(deltas),
            output_tokens=output_tokens,
            model=self._model,
            response_id=self._response_id,
        )

    def end(self) -> Chunk:
        """The last chunk, with the usage. Raises UpstreamFailure: an error came, or the stream was
        cut.

        Usage that the server did not report, or not plausibly, is estimated: the prompt by the
        function given to the constructor, the output as frames with content or bytes / 4, whichever
        is more.
        """
        if self._failure is not None:
            raise self._failure
        unfinished = [choice for choice in self._choices if not choice.finished]
        missing = len(unfinished)
        if missing and (
            not self._complete
            or missing == len(self._choices)
            or any(choice.begun for choice in unfinished)
        ):
            message = f"the stream was cut: {missing} of {len(self._choices)} choices unfinished"
            # Where nothing was understood, another server is what it is.
            odd = self._unread is not None and not any(c.frames for c in self._choices)
            kind = FailureKind.PROTOCOL if odd else FailureKind.SERVER_ERROR
            raise UpstreamFailure(kind, message)
        usage, refused = judged(
            self._claim(), self._seen(), self._bounds, self._estimated_prompt_tokens
        )
        return Chunk(
            deltas=(),
            output_tokens=usage.completion_tokens,
            usage=usage,
            model=self._model,
            response_id=self._response_id,
            missing_choices=missing,
            deviations=(*self._deviations(missing), *refused),
            engine=None if self._is_stage else self._engine,
        )

    def _fail(self, failure: UpstreamFailure) -> None:
        self.ended = True
        if not self.finished:  # what comes after a complete answer does not destroy it
            self._failure = failure

    def _add_payload(self, payload: bytes) -> None:
        try:
            self._add(wire.decode_frame(payload), payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._add_leniently(payload)

    def _add_leniently(self, payload: bytes) -> None:
        """Adds an event that strict decoding refuses. Raises UpstreamFailure: it is no event."""
        if is_heartbeat(payload):
            return
        try:
            value = read_json(payload)
        except NotJson:
            if payload.decode("utf-8", "replace").strip() in _DONE:
                self.ended = self._complete = True
                return
            if b"\n" in payload:  # events without an empty line between them
                for line in payload.split(b"\n"):
                    if line and not self.ended:
                        self._add_payload(line)
                return
            value = None
        # Gemini sends errors in an array. Of several events, each is read.
        for each in value if isinstance(value, list) else (value,):
            self._add_value(each, payload)

    def _add_value(self, value: object, payload: bytes) -> None:
        fitting = Fitting()
        frame = fitting.struct(wire.Frame, value)
        if frame is None:
            # The text may quote output: it is not passed on.
            message = "an event of the stream is not the JSON expected"
            raise UpstreamFailure(FailureKind.PROTOCOL, message)
        if fitting.lost and self._unread is None:
            self._unread = fitting.lost[0]
        self._add(frame, payload, halves=True)

    def _add(self, frame: wire.Frame, payload: bytes, *, halves: bool = False) -> None:
        choices = frame.choices
        if frame.error and not is_blank(frame.error):
            raise error_event(payload)
        if not choices and frame.usage is None and (failure := failure_of_event(payload)):
            raise failure
        if frame.model:
            self._model = frame.model[:MAX_ID_CHARACTERS]
        if frame.id and not self._response_id:
            self._response_id = str(frame.id)[:MAX_ID_CHARACTERS]
        state: ChoiceDecoder | None = None
        if choices:
            for position, choice in enumerate(choices):
                state = self._state(choice, position)
                if state is None:
                    self._unread = self._unread or "index"
                    continue
                state.add(choice, halves=halves)
                inner = choice.usage or _inner_usage(choice)
                if inner is not None:
                    self._add_choice_usage(state, inner)
        if frame.metrics is not None:
            self._engine = engine_times(frame.metrics)
        usage = frame.usage
        if usage is None and frame.x_groq is not None:
            usage = frame.x_groq.usage
        if usage is not None:
            self._add_usage(usage, state if choices and len(choices) == 1 else None, bool(choices))

    def _state(self, choice: wire.Choice, position: int) -> ChoiceDecoder | None:
        """The choice that a part of a frame belongs to; None: none that was requested."""
        index = position if choice.index is None else choice.index
        if 0 <= index < len(self._choices):
            return self._choices[index]
        if len(self._choices) > 1:
            return None
        (only,) = self._choices
        if not only.begun:
            self._only_index = index  # one choice, whatever its number
        return only if index == self._only_index else None

    def _add_usage(self, usage: wire.Usage, state: ChoiceDecoder | None, has_choice: bool) -> None:
        # In vLLM's continuous usage, completion_tokens are those of the frame's one choice; the
        # last frame, which has no choice, counts all of them (serving.py of 0.32).
        single = len(self._choices) == 1
        if state is not None and (self._usage_by_choice or single):
            completion = usage.completion_tokens
            if completion is not None and 0 < completion <= self._most_tokens:
                if single and self._usage_by_choice and completion > state.reported_tokens:
                    # With every token: only the last of them matters.
                    state.reported_tokens, state.reported_is_exact = completion, True
                    self._running = usage
                    return
                state.reported_tokens = completion
                # The frames of other servers may carry counts that stay 0 until the last one.
                state.reported_is_exact = self._usage_by_choice
            if self._usage_by_choice and not single:
                self._claims[state.index] = Claim(prompt_tokens=usage.prompt_tokens)
        if not has_choice or not self._usage_by_choice or single:
            self._totals.add(usage)
            self._complete = self._complete or not has_choice

    def _add_choice_usage(self, state: ChoiceDecoder, usage: wire.Usage) -> None:
        """Adds the usage inside a choice (Moonshot), which counts that choice."""
        if len(self._choices) == 1:
            self._totals.add(usage)
        else:
            self._claims[state.index] = claim_of(usage)

    def _claim(self) -> Claim:
        """What the server says of the whole answer."""
        claim = self._told()
        if self._is_stage:
            claim.cached_tokens = None
        return claim

    def _told(self) -> Claim:
        if self._running is not None:
            self._totals.add(self._running)
        if self._totals:
            return self._totals.claim()
        claim = Claim()
        completions: list[int] = []
        for state in self._choices:
            of_choice = self._claims.get(state.index)
            if of_choice is not None:
                claim.prompt_tokens = larger(claim.prompt_tokens, of_choice.prompt_tokens)
                claim.cached_tokens = larger(claim.cached_tokens, of_choice.cached_tokens)
                if of_choice.completion_tokens is not None:
                    completions.append(of_choice.completion_tokens)
        if completions and len(completions) == len(self._choices):
            claim.completion_tokens = sum(completions)
        elif all(state.reported_is_exact for state in self._choices):
            # The counts of the choices add up to the total that did not come.
            claim.completion_tokens = sum(state.output_tokens for state in self._choices)
        return claim

    def _seen(self) -> Seen:
        choices = self._choices
        return Seen(
            size_bytes=sum(choice.output_bytes for choice in choices),
            least_tokens=sum(
                max(choice.output_tokens, estimated_tokens(choice.output_bytes))
                for choice in choices
            ),
            cut=self._cut,
        )

    def _check_size(self, choice: ChoiceDecoder, deltas: list[ChoiceDelta]) -> None:
        """Ends the answer if a choice has more output than was asked for."""
        if choice.finished or not self._bounds.is_too_much(choice.output_bytes, choice.frames):
            return
        self.ended = self._cut = True
        excess = choice.output_bytes - self._bounds.most_bytes
        if excess > 0:
            deltas[-1] = shortened(deltas[-1], excess)
        for each in self._choices:
            each.cut()
        deltas.append(choice.pop_delta())

    def _deviations(self, missing: int) -> list[Deviation]:
        found = [choice.deviation for choice in self._choices if choice.deviation is not None]
        if missing:
            found.append(Deviation(kind=DeviationKind.MISSING_CHOICE, detail=str(missing)))
        unread = self._unread
        if unread is None and any(choice.lost_signatures for choice in self._choices):
            unread = "signature"
        if unread is not None:
            found.append(Deviation(kind=DeviationKind.UNREAD_FIELD, detail=unread))
        return found


def _inner_usage(choice: wire.Choice) -> wire.Usage | None:
    """Usage within the output of a choice."""
    output = choice.delta or choice.message
    return None if output is None else output.usage
