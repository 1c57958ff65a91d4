"""Tells with each answer what the request had of the engine. Checked against vLLM 0.32; 0.33 has
the same functions. Whatever goes wrong here, the request goes on without the two fields.

With `--enable-per-request-metrics` vLLM's last event has `metrics` of the request. The two fields
that are added there come at the very moment at which the gateway settles the request; the feed is
read a second later. Of several choices vLLM tells no metrics: each is a request of its own in the
engine. The answer then has the two fields as sums over the choices, and `moegate_whole_ms`.
Nothing is added for data-parallel ranks and several API servers: no process sees all steps there.
"""

from __future__ import annotations

import importlib
import logging
from functools import partial
from typing import Any

from moegate.vllm_plugin.choices import Choices
from moegate.vllm_plugin.shares import Change, StepShares

log = logging.getLogger(__name__)

SERVING = {
    "vllm.entrypoints.openai.chat_completion.serving": (
        "OpenAIServingChat",
        ("ChatCompletionResponse", "ChatCompletionStreamResponse"),
    ),
    "vllm.entrypoints.openai.completion.serving": (
        "OpenAIServingCompletion",
        ("CompletionResponse", "CompletionStreamResponse"),
    ),
}
"""Modules that make the metrics of an answer, with the class that does and those of its answers."""
BUILD = "build_per_request_timing_metrics"
SCHEDULED, PREEMPTED = "SCHEDULED", "PREEMPTED"
"""Names of vLLM's events of a request."""


def install(shares: StepShares) -> bool:
    """Follows the outputs of this API server; returns whether this vLLM can be followed."""
    try:
        from vllm.v1.engine.output_processor import OutputProcessor

        modules = {importlib.import_module(name): names for name, names in SERVING.items()}
        builds = [getattr(module, BUILD) for module in modules]
        servings = [getattr(module, serving) for module, (serving, _) in modules.items()]
        inits = [serving.__init__ for serving in servings]
        answers = [[getattr(module, a) for a in names] for module, (_, names) in modules.items()]
        process_outputs = OutputProcessor.process_outputs
    except (ImportError, AttributeError) as error:
        log.warning("requests are not told what they had of the engine: %r", error)
        return False
    choices = Choices()

    def followed_outputs(self, outputs, timestamp=None, *args, **kwargs):
        if timestamp is not None:
            try:
                _follow(shares, choices, self.request_states, outputs, timestamp)
            except Exception as error:  # an error here would end the whole engine
                log.debug("outputs are not followed: %r", error)
        return process_outputs(self, outputs, timestamp, *args, **kwargs)

    OutputProcessor.process_outputs = followed_outputs
    for module, build, serving, init, of_module in zip(
        modules, builds, servings, inits, answers, strict=True
    ):
        setattr(module, BUILD, _with_shares(build, shares))
        ended = partial(choices.ended, shares=shares)
        serving.__init__ = _telling(init, module, of_module, build, ended)
    return True


def _telling(init: Any, module: Any, answers: Any, build: Any, ended: Any) -> Any:
    """The constructor of a serving class that also lets its answers tell of several choices, where
    vLLM tells of one: with `--enable-per-request-metrics`."""

    def init_telling(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if getattr(self, "enable_per_request_metrics", False):
            for answer in answers:
                setattr(module, answer.__name__, _with_choices(answer, build, ended))

    return init_telling


def _follow(
    shares: StepShares, choices: Choices, states: Any, outputs: Any, timestamp: float
) -> None:
    shares.outputs(timestamp)
    for output in outputs:
        state = states.get(output.request_id)
        if state is None or state.stats is None:
            continue
        changes = _changes(output.events or ())
        prefill = output.prefill_stats
        if prefill is not None and state.is_prefilling:
            shares.answered(state.stats, prefill.num_computed_tokens, changes)
            if state.parent_req is not None:
                parent = state.parent_req
                choices.begun(state.external_req_id, parent.request_id, parent.n, state.stats)
        elif changes:  # computed again, with what it has answered so far
            tokens = state.prompt_len + state.stats.num_generation_tokens
            shares.answered(state.stats, tokens, changes)


def _changes(events: Any) -> list[Change]:
    """The preemptions among the events of a request, and when it was scheduled after each."""
    found: list[Change] = []
    for event in events:
        if event.type.name == PREEMPTED:
            found.append(Change(runs=False, at_s=event.timestamp))
        elif event.type.name == SCHEDULED:
            found.append(Change(runs=True, at_s=event.timestamp))
    return found


def _with_shares(build: Any, shares: StepShares) -> Any:
    def build_with_shares(metrics, *args, **kwargs):
        told = build(metrics, *args, **kwargs)
        try:
            had = None if metrics is None else shares.had(metrics)
            if had is not None:
                told.moegate_prefill_ms = had.prefill_s * 1e3
                told.moegate_decode_ms = had.decode_s * 1e3
        except Exception as error:
            log.debug("a request is not told what it had: %r", error)
        return told

    return build_with_shares


def _with_choices(answer: Any, build: Any, ended: Any) -> Any:
    """What makes an answer, or a chunk of one: the last one tells what all choices had."""

    def answer_with_choices(*args, **kwargs):
        made = answer(*args, **kwargs)
        try:
            # Of a stream, the chunk of the usage has no choices.
            is_last = not made.choices if "Stream" in answer.__name__ else True
            if made.metrics is None and made.usage is not None and is_last:
                of_choices = ended(made.id)
                if of_choices is not None:
                    told = build(None, 0)
                    told.moegate_prefill_ms = of_choices.had.prefill_s * 1e3
                    told.moegate_decode_ms = of_choices.had.decode_s * 1e3
                    told.moegate_whole_ms = of_choices.whole_s * 1e3
                    made.metrics = told
        except Exception as error:
            log.debug("a request is not told what its choices had: %r", error)
        return made

    return answer_with_choices
