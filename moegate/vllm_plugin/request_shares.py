"""Tells with each answer what the request had of the engine. Checked against vLLM 0.32; 0.33 has
the same functions. Whatever goes wrong here, the request goes on without the two fields.

With `--enable-per-request-metrics` vLLM's last event has `metrics` of the request. The two fields
that are added there come at the very moment at which the gateway settles the request; the feed is
read a second later. Nothing is added for data-parallel ranks and several API servers: no process
sees all steps there.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

from moegate.vllm_plugin.shares import StepShares

log = logging.getLogger(__name__)

SERVING = (
    "vllm.entrypoints.openai.chat_completion.serving",
    "vllm.entrypoints.openai.completion.serving",
)
"""Modules that make the metrics of an answer."""
BUILD = "build_per_request_timing_metrics"


def install(shares: StepShares) -> bool:
    """Follows the outputs of this API server; returns whether this vLLM can be followed."""
    try:
        from vllm.v1.engine.output_processor import OutputProcessor

        modules = [importlib.import_module(name) for name in SERVING]
        builds = [getattr(module, BUILD) for module in modules]
        process_outputs = OutputProcessor.process_outputs
    except (ImportError, AttributeError) as error:
        log.warning("requests are not told what they had of the engine: %r", error)
        return False

    def followed_outputs(self, outputs, timestamp=None, *args, **kwargs):
        if timestamp is not None:
            try:
                _follow(shares, self.request_states, outputs, timestamp)
            except Exception as error:  # an error here would end the whole engine
                log.debug("outputs are not followed: %r", error)
        return process_outputs(self, outputs, timestamp, *args, **kwargs)

    OutputProcessor.process_outputs = followed_outputs
    for module, build in zip(modules, builds, strict=True):
        setattr(module, BUILD, _with_shares(build, shares))
    return True


def _follow(shares: StepShares, states: Any, outputs: Any, timestamp: float) -> None:
    shares.outputs(timestamp)
    for output in outputs:
        prefill = output.prefill_stats
        if prefill is None:
            continue
        state = states.get(output.request_id)
        if state is not None and state.is_prefilling and state.stats is not None:
            shares.answered(state.stats, prefill.num_computed_tokens)


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
