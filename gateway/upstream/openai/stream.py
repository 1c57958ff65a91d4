"""Frames of an OpenAI-shaped stream into chunks: a state machine without I/O.

A stream is complete when every choice has a finish reason. `[DONE]` does not show it: vLLM sends it
after an error in the stream, too. The usage is reported at the end, from the last counts that came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import MAX_ID_CHARACTERS, Chunk
from gateway.upstream.http.failures import error_event, failure_of_event
from gateway.upstream.openai import wire
from gateway.upstream.openai.choice import ChoiceDecoder
from gateway.upstream.openai.usage import normalised
from gateway.upstream.token_estimate import MAX_TOKENS, estimated_tokens
from scheduler.contract import Usage


class StreamDecoder:
    """Decodes one stream: `feed` it payloads until `ended` or the end of input, then call `end`.

    `choices`: how many were requested. `prompt_tokens`: estimates them, called if no usage comes.
    `usage_by_choice`: the usage in an event with one choice is that of the choice, and its counts
    are those of the tokens so far (vLLM's continuous_usage_stats). `origin`: of the signatures;
    empty: none are kept.

    Attributes:
        ended: [DONE] or a failure came, so that nothing that follows matters.
        started: the first token has come.
    """

    def __init__(
        self,
        choices: int,
        *,
        prompt_tokens: Callable[[], int],
        usage_by_choice: bool = False,
        origin: str = "",
    ) -> None:
        self._choices = [ChoiceDecoder(index, origin) for index in range(choices)]
        self._usage_by_choice = usage_by_choice
        self._estimated_prompt_tokens = prompt_tokens
        self._prompt_tokens: int | None = None
        self._usage: wire.Usage | None = None
        self._failure: UpstreamFailure | None = None
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
                self.ended = True
            elif payload:
                try:
                    frame = wire.decode_frame(payload)
                    _check_error(frame, payload)
                    self._add(frame)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    # The error's text may quote output: it is not passed on.
                    message = "an event of the stream is not the JSON expected"
                    self._fail(
                        failure_of_event(payload) or UpstreamFailure(FailureKind.PROTOCOL, message)
                    )
                except UpstreamFailure as failure:
                    self._fail(failure)
        deltas, output_tokens = [], 0
        for choice in self._choices:
            output_tokens += choice.output_tokens
            if choice.has_new_output:
                deltas.append(choice.pop_delta())
        # A server may count less than before; counts that were reported never fall.
        output_tokens = max(self._output_tokens, output_tokens)
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

        Usage that the server did not report is estimated: the prompt by the function given to the
        constructor, the output as frames with content or bytes / 4, whichever is more.
        """
        if self._failure is not None:
            raise self._failure
        unfinished = sum(not choice.finished for choice in self._choices)
        if unfinished:
            message = f"the stream was cut: {unfinished} of {len(self._choices)} choices unfinished"
            raise UpstreamFailure(FailureKind.SERVER_ERROR, message)
        usage = (normalised(self._usage) if self._usage else None) or self._estimate()
        return Chunk(
            deltas=(),
            output_tokens=usage.completion_tokens,
            usage=usage,
            model=self._model,
            response_id=self._response_id,
        )

    def _fail(self, failure: UpstreamFailure) -> None:
        self._failure, self.ended = failure, True

    def _add(self, frame: wire.Frame) -> None:
        if frame.model:
            self._model = frame.model
        if frame.id and not self._response_id:
            self._response_id = str(frame.id)[:MAX_ID_CHARACTERS]
        choices = frame.choices or ()
        for choice in choices:
            index = choice.index or 0
            if not 0 <= index < len(self._choices):
                message = f"choice {index} in a stream of {len(self._choices)} choices"
                raise UpstreamFailure(FailureKind.PROTOCOL, message)
            self._choices[index].add(choice)
        usage = frame.usage
        if usage is None:
            return
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        if prompt is None or completion is None:
            return
        # Absurd counts are ignored: the counts before them, or the estimate, stay.
        if not (0 <= prompt <= MAX_TOKENS and 0 <= completion <= MAX_TOKENS):
            return
        # In vLLM's continuous usage, completion_tokens are those of the frame's one choice; the
        # last frame, which has no choice, counts all of them (serving.py of 0.32).
        if len(choices) == 1 and (self._usage_by_choice or len(self._choices) == 1):
            state = self._choices[choices[0].index or 0]
            state.reported_tokens = completion
            # The frames of other servers may carry counts that stay 0 until the last one.
            state.reported_is_exact = self._usage_by_choice
            self._prompt_tokens = prompt
        if not choices or not self._usage_by_choice or len(self._choices) == 1:
            self._usage = usage

    def _estimate(self) -> Usage:
        choices = self._choices
        prompt_tokens = self._prompt_tokens
        if prompt_tokens is None:
            prompt_tokens = self._estimated_prompt_tokens()
        if all(choice.reported_is_exact for choice in choices):
            # The counts of the choices add up to the total that did not come.
            tokens = sum(choice.output_tokens for choice in choices)
            return Usage(prompt_tokens=prompt_tokens, completion_tokens=tokens)
        tokens = sum(
            max(choice.output_tokens, estimated_tokens(choice.output_bytes)) for choice in choices
        )
        return Usage(prompt_tokens=prompt_tokens, completion_tokens=tokens, estimated=True)


def _check_error(frame: wire.Frame, payload: bytes) -> None:
    """Raises the failure that an event tells: as `error`, or in a shape of its own."""
    if frame.error:
        raise error_event(payload)
    if not frame.choices and frame.usage is None and (found := failure_of_event(payload)):
        raise found
