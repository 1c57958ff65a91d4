"""Records the steps and finished sequences of the engine as moegate's plugin does."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from moegate.vllm_plugin.feed import ExpertStep, Feed, FinishedRequest, Step
from moegate.vllm_plugin.shares import Change, Had, StepShares
from simulation.engine.engine import Engine
from simulation.engine.rank import Rank
from simulation.engine.sequences import Sequence

MOST_FOLLOWED = 4096
"""Sequences that are followed at once; aborted ones are forgotten only then."""


@dataclass
class Stats:
    """A sequence as the plugin sees it, on the engine's clock."""

    scheduled_ts: float
    first_token_ts: float
    last_token_ts: float
    num_preemptions: int = 0
    seen_preemptions: int = 0


class StepRecorder:
    """Follows one engine. Call `begun` after `Engine.begin_step` and `ended` after its end."""

    def __init__(self, engine: Engine, version: str, *, count_experts: bool = False) -> None:
        self.feed = Feed()
        self.feed.version = version
        model = engine.physics.model
        if count_experts:
            # Layers are not simulated: the means over them are all that is told.
            self.feed.moe = {
                "experts": model.experts,
                "experts_per_token": model.experts_per_token,
                "layers": 1,
            }
        self._engine = engine
        self._begun: list[Step] = []
        self._shares = StepShares() if len(engine.ranks) == 1 else None
        self._followed: dict[Sequence, Stats] = {}

    def begun(self, duration_s: float, period_s: float | None) -> None:
        """Records what the step computes. `period_s`: since the end of the step before; None: the
        engine was idle."""
        ranks = enumerate(self._engine.ranks)
        self._begun = [_step(index, rank, duration_s, period_s) for index, rank in ranks]

    def ended(self, end_s: float, sequences: Iterable[Sequence]) -> None:
        """Writes the step to the feed. `end_s`: on the engine's clock; `sequences`: those that got
        a token or ended."""
        at_s = time.monotonic()
        for step, rank in zip(self._begun, self._engine.ranks, strict=True):
            # As vLLM tells it: a dummy step only where no coordinator keeps the ranks together.
            if step.decode_requests or step.prefill_requests:
                usage = rank.pool.used_blocks / rank.size.num_gpu_blocks
                running, waiting = len(rank.running), len(rank.waiting)
                self.feed.add(
                    step._replace(at_s=at_s, running=running, waiting=waiting, kv_usage=usage)
                )
                if self.feed.moe is not None:
                    self.feed.add(self._expert_step(step, at_s))
        if self._shares is not None:
            self._divide(self._shares, self._begun[0], end_s, sequences)
        for sequence in sequences:
            if sequence.ended:
                self.feed.add(_finished(sequence, at_s, end_s))

    def had(self, sequence: Sequence) -> Had | None:
        """What a sequence that ended with the last step had of the engine's steps; None:
        unknown."""
        stats = self._followed.pop(sequence, None)
        if stats is None or self._shares is None:
            return None
        stats.num_preemptions = sequence.preemptions
        return self._shares.had(stats)

    def _divide(
        self, shares: StepShares, step: Step, end_s: float, sequences: Iterable[Sequence]
    ) -> None:
        """Divides a step of the only rank."""
        shares.outputs(end_s)
        for sequence in sequences:
            stats = self._followed.get(sequence)
            if stats is None and sequence.admitted_s is not None:
                if len(self._followed) >= MOST_FOLLOWED:
                    del self._followed[next(iter(self._followed))]
                stats = self._followed[sequence] = Stats(sequence.admitted_s, end_s, end_s)
                tokens = sequence.prompt_tokens - sequence.cached_tokens
                stats.seen_preemptions = sequence.preemptions
                shares.answered(stats, tokens, _changes(sequence) if sequence.preemptions else ())
            elif stats is not None and stats.seen_preemptions < sequence.preemptions:
                stats.seen_preemptions = sequence.preemptions
                tokens = sequence.total_tokens - sequence.found_tokens
                shares.answered(stats, tokens, _changes(sequence))
            if stats is not None:
                stats.last_token_ts = end_s
        took_s = step.elapsed_s if step.period_s is None else step.period_s
        sequences_decoding = step.decode_requests - step.preemptions
        again_tokens = step.decode_tokens - sequences_decoding
        shares.step(
            took_s=took_s,
            sequences=sequences_decoding,
            prefill_tokens=step.prefill_tokens + again_tokens,
        )

    def _expert_step(self, step: Step, at_s: float) -> ExpertStep:
        """The expected experts of a step: single choices are not simulated."""
        physics = self._engine.physics
        tokens = step.decode_tokens + step.prefill_tokens
        return ExpertStep(
            engine=step.engine,
            at_s=at_s,
            tokens=tokens,
            prefill_tokens=step.prefill_tokens,
            distinct=physics.touched_experts(tokens),
            load=list(physics.rank_choices(tokens)) or None,
        )


def _changes(sequence: Sequence) -> tuple[Change, Change]:
    """Its last preemption."""
    return (
        Change(runs=False, at_s=sequence.preempted_s),
        Change(runs=True, at_s=sequence.scheduled_s),
    )


def _step(index: int, rank: Rank, duration_s: float, period_s: float | None) -> Step:
    whole = all(
        s.computed_tokens == s.found_tokens and tokens == s.pending_tokens
        for s, tokens in rank.prefills
    )
    # As in vLLM, what was preempted and is computed again counts as decoding.
    again = [tokens for s, tokens in rank.prefills if s.output_tokens]
    prompts = [tokens for s, tokens in rank.prefills if not s.output_tokens]
    return Step(
        engine=index,
        at_s=0.0,
        prefill_requests=len(prompts),
        prefill_tokens=sum(prompts),
        prompt_tokens=sum(s.prompt_tokens for s, _ in rank.prefills) if whole else None,
        decode_requests=rank.batch + len(again),
        decode_tokens=rank.batch + sum(again),
        output_tokens=rank.batch,
        elapsed_s=duration_s,
        period_s=period_s if rank.batch else None,
        dummy=False,
        running=0,
        waiting=0,
        kv_usage=0.0,
        preemptions=len(again),
    )


def _finished(sequence: Sequence, at_s: float, end_s: float) -> FinishedRequest:
    arrival_s, admitted_s = sequence.arrival_s, sequence.admitted_s
    first_s, tokens = sequence.first_token_s or None, sequence.output.tokens
    decode_s = None if first_s is None else end_s - first_s
    # The engine's own ids end with 9 characters that make them unique.
    name = sequence.request.request_id[:-9]
    return FinishedRequest(
        engine=sequence.rank,
        at_s=at_s,
        id=f"{name}-{sequence.choice}" if name.startswith("cmpl-") else name,
        finish=sequence.output.finish_reason.value,
        prompt_tokens=sequence.prompt_tokens,
        cached_tokens=sequence.cached_tokens,
        output_tokens=tokens,
        preemptions=sequence.preemptions,
        queued_s=None if admitted_s is None else admitted_s - arrival_s,
        prefill_s=None if admitted_s is None or first_s is None else first_s - admitted_s,
        decode_s=decode_s,
        tpot_s=None if decode_s is None or tokens < 2 else decode_s / (tokens - 1),
    )
