"""vLLM's side of the feed: receives the statistics of every step. Checked against vLLM 0.32.

Entry point group `vllm.stat_logger_plugins`. The steps need `--enable-logging-iteration-details`,
finished requests do not. vLLM calls this in each API server, for what that server was told.
Where it sees all steps of its engine, answers also tell what each request had of them.
"""

from __future__ import annotations

import logging
import time

from vllm.v1.metrics.loggers import AggregateStatLoggerBase
from vllm.version import __version__ as vllm_version

from moegate.vllm_plugin import request_shares
from moegate.vllm_plugin.feed import FEED, FinishedRequest, Step
from moegate.vllm_plugin.shares import StepShares

ITERATION_LINE = "%sIteration(%d)"
"""Begin of the line that vLLM logs for every step with iteration details."""


class StepLogger(AggregateStatLoggerBase):
    """Writes steps and finished requests to the feed."""

    def __init__(self, vllm_config, engine_indexes):
        parallel = vllm_config.parallel_config
        FEED.version = vllm_version
        FEED.processes = max(1, getattr(parallel, "_api_process_count", 1) or 1)
        loggers = logging.getLogger("vllm.v1.metrics.loggers")
        loggers.addFilter(_without_iteration_lines)
        self._shares = None
        self._most_tokens = 1 + getattr(vllm_config, "num_speculative_tokens", 0)
        details = vllm_config.observability_config.enable_logging_iteration_details
        if details and FEED.processes == 1 and parallel.data_parallel_size == 1:
            shares = StepShares()
            if request_shares.install(shares):
                self._shares = shares

    def record(self, scheduler_stats, iteration_stats, mm_cache_stats=None, engine_idx=0):
        """One step of one engine; either statistics may be missing."""
        at_s = time.monotonic()
        details = getattr(scheduler_stats, "iteration_details", None)
        if details is not None:
            step = _step(engine_idx, at_s, scheduler_stats, details, iteration_stats)
            # vLLM counts a preempted request that is computed again as one that decodes.
            again = self._again(step)
            FEED.add(step._replace(preemptions=max(step.preemptions, again)))
            if self._shares is not None and not step.dummy:
                sequences = step.decode_requests - again
                tokens = step.decode_tokens - sequences * self._most_tokens if again else 0
                self._shares.step(
                    took_s=step.elapsed_s if step.period_s is None else step.period_s,
                    sequences=sequences,
                    prefill_tokens=step.prefill_tokens + max(0, tokens),
                )
        if iteration_stats is not None:
            for ended in iteration_stats.finished_requests:
                FEED.add(_finished(engine_idx, at_s, ended))

    def _again(self, step: Step) -> int:
        """Requests that this step computes again after a preemption, as far as that is known: one,
        if it computes more tokens than its sequences can decode."""
        surplus = step.decode_tokens > step.decode_requests * self._most_tokens
        return min(step.decode_requests, max(1, step.preemptions)) if surplus else 0

    def log_engine_initialized(self):
        """Nothing: the details that vLLM logs here are on /metrics."""


def _without_iteration_lines(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(ITERATION_LINE)


def _step(engine_idx, at_s, scheduler_stats, details, iteration_stats) -> Step:
    output_tokens = prompt_tokens = period_s = None
    preemptions = 0
    if iteration_stats is not None:
        gaps_s = iteration_stats.inter_token_latencies_iter
        # By the engine's clock. A sequence that was preempted has a longer gap.
        period_s = min(gaps_s) if gaps_s else None
        preemptions = iteration_stats.num_preempted_reqs
        prompts = iteration_stats.prompt_token_stats
        if FEED.processes == 1:
            firsts = len(iteration_stats.time_to_first_tokens_iter)
            output_tokens = max(0, iteration_stats.num_generation_tokens - firsts)
            # Else a prompt is computed in several steps, and each tells only its part.
            if firsts == details.num_ctx_requests and prompts.computed == details.num_ctx_tokens:
                prompt_tokens = prompts.total
    return Step(
        engine=engine_idx,
        at_s=at_s,
        prefill_requests=details.num_ctx_requests,
        prefill_tokens=details.num_ctx_tokens,
        prompt_tokens=prompt_tokens,
        decode_requests=details.num_generation_requests,
        decode_tokens=details.num_generation_tokens,
        output_tokens=output_tokens,
        elapsed_s=details.elapsed_ms / 1e3,
        period_s=period_s,
        dummy=details.is_dummy,
        running=scheduler_stats.num_running_reqs,
        waiting=scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs,
        kv_usage=scheduler_stats.kv_cache_usage,
        preemptions=preemptions,
    )


def _finished(engine_idx, at_s, ended) -> FinishedRequest:
    # A request that ended before it was scheduled has differences to a time of 0.
    scheduled = ended.queued_time >= 0.0
    answered = scheduled and ended.prefill_time >= 0.0 and ended.num_generation_tokens > 0
    return FinishedRequest(
        engine=engine_idx,
        at_s=at_s,
        id=str(ended.request_id or ""),
        finish=str(ended.finish_reason),
        prompt_tokens=ended.num_prompt_tokens,
        cached_tokens=max(0, ended.num_cached_tokens),
        output_tokens=ended.num_generation_tokens,
        preemptions=ended.num_preemptions,
        queued_s=ended.queued_time if scheduled else None,
        prefill_s=ended.prefill_time if answered else None,
        decode_s=max(0.0, ended.decode_time) if answered else None,
        tpot_s=ended.mean_time_per_output_token if ended.num_generation_tokens > 1 else None,
    )
