"""A simulated vLLM engine: continuous batching with the step time of a MoE model.

One group of GPUs that steps together, of one rank or of several data-parallel ones in lock-step:
each rank schedules for itself (`simulation.rank`), the slowest sets the pace, idle ones run along.
The time is that of `Physics` with lognormal noise. Pure: the caller passes the time; the same calls
and seed give the same results. The simulated vLLM server and the fleet simulation run this engine.

`begin_step` decides and says how long it takes, `finish_step` yields the tokens, so that aborts
and arrivals in between find an engine at work. `step` is both at once. While nothing but decoding
happens, `begin_step` may take many steps as one; `settle` counts the steps that have ended
so far, and `interrupt` stops after the step under way, so that new requests can be added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from simulation.engine.cost_truth import CostTruth
from simulation.engine.counters import EngineCounters
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import Physics
from simulation.engine.rank import Rank
from simulation.engine.sequences import Sequence, SequenceOutput, SequenceRequest
from simulation.engine.steps import StepsUnderWay
from simulation.output import FinishReason

_NOISE_BLOCK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """A step. `duration_s` is 0.0 when there was nothing to do."""

    duration_s: float
    outputs: tuple[SequenceOutput, ...]


class Engine:
    """One engine: a group of GPUs that steps together."""

    def __init__(self, config: EngineConfig, physics: Physics, seed: int) -> None:
        self.config = config
        self.physics = physics
        self.truth = CostTruth()
        size = config.rank_size()
        self.ranks = tuple(
            Rank(size, EngineCounters(longest_tokens=config.max_model_len), self.truth)
            for _ in range(config.ranks)
        )
        self._rng = np.random.default_rng(seed)
        self._noise: list[float] = []
        self._requests: dict[str, list[Sequence]] = {}
        self._under_way: StepsUnderWay | None = None
        self._last_end_s = 0.0

    def __repr__(self) -> str:
        return (
            f"<Engine: {self.running} running, {self.waiting} waiting,"
            f" {self.kv_usage:.0%} of the KV cache>"
        )

    @property
    def counters(self) -> EngineCounters:
        """Counters of all ranks together."""
        if len(self.ranks) == 1:
            return self.ranks[0].counters
        counters = EngineCounters(longest_tokens=self.config.max_model_len)
        for rank in self.ranks:
            counters.add(rank.counters)
        return counters

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return sum(len(rank.running) for rank in self.ranks)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return sum(len(rank.waiting) for rank in self.ranks)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return any(rank.running or rank.waiting for rank in self.ranks)

    @property
    def steps_under_way(self) -> int:
        """Steps that `begin_step` began and that have not ended."""
        return 0 if self._under_way is None else self._under_way.steps

    @property
    def open_requests(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    @property
    def kv_usage(self) -> float:
        """Share of the blocks that sequences hold, 0 to 1; what is only cached does not count."""
        used = sum(rank.pool.used_blocks for rank in self.ranks)
        return used / (self.config.num_gpu_blocks * len(self.ranks))

    def add(self, request: SequenceRequest, now: float, rank: int | None = None) -> None:
        """Queues all choices. Raises ValueError: empty, too long, or the id is in use.

        `rank`: pins a data-parallel rank; None: the least busy one, as vLLM balances.
        """
        if request.request_id in self._requests:
            raise ValueError(f"request {request.request_id} is in the engine already")
        outputs = request.outputs
        if request.prompt_tokens < 1 or not outputs:
            raise ValueError("a request needs a prompt and a choice")
        longest = request.prompt_tokens + max(output.tokens for output in outputs)
        if longest > self.config.max_model_len:
            raise ValueError(f"{longest} tokens are more than {self.config.max_model_len}")
        if min(output.tokens for output in outputs) < 1:
            raise ValueError("an answer has at least one token")
        if rank is None:
            rank = self._least_busy()
        extent_tokens = self.config.block_size * self.config.extent_blocks
        known = request.keys((), 0, request.prompt_tokens // extent_tokens, extent_tokens)
        sequences = [Sequence(request, i, known, rank, now) for i in range(len(outputs))]
        self._requests[request.request_id] = sequences
        self.ranks[rank].waiting.extend(sequences)
        self.ranks[rank].counters.added += len(sequences)

    def abort(self, request_id: str) -> float:
        """Ends the remaining sequences of a request and frees its blocks at once.

        Returns the step time that its sequences caused, seconds. While steps are under way,
        `interrupt` first. Raises RuntimeError otherwise.
        """
        if self._under_way is not None and self._under_way.steps > 1:
            raise RuntimeError("interrupt the steps first")
        cost_s = 0.0
        for sequence in self._requests.pop(request_id, ()):
            rank = self.ranks[sequence.rank]
            rank.remove(sequence)
            rank.counters.finished[FinishReason.ABORT] += 1
            cost_s += sequence.cost_s
        return cost_s

    def sequences(self, request_id: str) -> tuple[Sequence, ...]:
        """Sequences of a request that have not ended."""
        return tuple(self._requests.get(request_id, ()))

    def output_tokens(self, sequence: Sequence) -> int:
        """Output of a sequence so far, as of the last `settle` or step."""
        return self.ranks[sequence.rank].output_tokens(sequence)

    def step(self, now: float) -> StepResult:
        """One whole step from `now`."""
        duration_s = self.begin_step(now)
        return StepResult(duration_s=duration_s, outputs=self.finish_step())

    def begin_step(self, now: float, most_steps: int = 1) -> float:
        """Chooses the tokens of the next step, or of up to `most_steps` that only decode.

        Returns the seconds they take, 0.0 with nothing to do. Raises RuntimeError when a step is
        under way.
        """
        if self._under_way is not None:
            raise RuntimeError("a step is under way")
        ranks = self.ranks
        for rank in ranks:
            rank.schedule(now)
        steps = most_steps
        for rank in ranks:
            steps = rank.quiet_steps(steps) if steps > 1 else 1
        if len(ranks) > 1 and steps > 1:
            steps = self._steps_of_one_pace(steps)
        batch = sum(rank.batch for rank in ranks)
        if not batch and not any(rank.prefills for rank in ranks):
            self._under_way = StepsUnderWay(now, 1)
            return 0.0
        noise = self._draw_noise(steps)
        under_way = self._under_way = StepsUnderWay(now, steps)
        if batch:
            slowest = max(ranks, key=_kv_tokens)
            under_way.kv_token_s = self.physics.kv_token_s * noise
            under_way.slope_s = under_way.kv_token_s * slowest.batch
            fixed_s = self.physics.decode_fixed_s(batch) * noise
            under_way.first_s = fixed_s + under_way.kv_token_s * slowest.kv_tokens
            self._charge_decode(under_way, under_way.first_s, 1, ahead=0)
        under_way.first_s += self._charge_prefills(batch, noise)
        return under_way.duration_s(steps)

    def settle(self, now: float) -> None:
        """Counts the steps that have ended by `now` while many are under way."""
        under_way = self._under_way
        if under_way is None or (done := under_way.steps_by(now)) < 1:
            return
        self._charge_decode(under_way, under_way.first_s + under_way.slope_s, done, ahead=1)
        end_s = under_way.begin_s + under_way.duration_s(done)
        self._count_decoded(done, end_s)
        for rank in self.ranks:
            if rank.batch:
                rank.counters.step_tokens.observe(rank.batch, done)
            rank.advance(done, goes_on=True)
        under_way.begin_s = end_s
        under_way.steps -= done
        under_way.first_s += done * under_way.slope_s

    def interrupt(self, now: float) -> float:
        """Stops after the step under way at `now`; returns the end of that step, seconds."""
        under_way = self._under_way
        if under_way is None:
            return now
        self.settle(now)
        under_way.steps = 1
        return under_way.begin_s + under_way.first_s

    def finish_step(self, *, every_token: bool = True) -> tuple[SequenceOutput, ...]:
        """Ends the step: a token for every sequence whose computation has caught up.

        Without `every_token` only first and last tokens are returned. Raises RuntimeError when no
        step is under way.
        """
        outputs = []
        for sequence in self.finish(every_token=every_token):
            outputs.append(
                SequenceOutput(
                    request_id=sequence.request.request_id,
                    choice=sequence.choice,
                    tokens=self.output_tokens(sequence),
                    cached_tokens=sequence.cached_tokens,
                    finish_reason=sequence.output.finish_reason if sequence.ended else None,
                )
            )
        return tuple(outputs)

    def finish(self, *, every_token: bool = False) -> list[Sequence]:
        """Like `finish_step`, but returns the sequences; `ended` shows which have ended."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            raise RuntimeError("no step is under way")
        told: list[Sequence] = []
        if not under_way.first_s:
            for rank in self.ranks:
                rank.advance(1, goes_on=False)
            return told
        if under_way.steps > 1:
            second_s = under_way.first_s + under_way.slope_s
            self._charge_decode(under_way, second_s, under_way.steps - 1, ahead=1)
        end_s = under_way.begin_s + under_way.duration_s(under_way.steps)
        self._count_decoded(under_way.steps, end_s)
        for rank in self.ranks:
            step_tokens = rank.batch
            step_tokens += sum(tokens for one, tokens in rank.prefills if not one.ended)
            rank.advance(under_way.steps, goes_on=False)
            ended = rank.ended()
            if every_token:
                told += (one for one in rank.running if one.decodes)
            complete = rank.finish_prefills()
            for sequence in complete:
                self._emit(rank, sequence, end_s)
                if sequence.ended:
                    ended.append(sequence)
                else:
                    told.append(sequence)
            for sequence in ended:
                self._count_end(sequence, end_s)
            told += ended
            step_tokens += len(complete)
            if step_tokens:  # an idle rank steps too, but has no tokens to count
                rank.counters.step_tokens.observe(step_tokens, under_way.steps)
        self._last_end_s = end_s
        return told

    def _least_busy(self) -> int:
        """vLLM's data-parallel balancer: four times the waiting plus the running, the first one."""
        busy = [4 * len(rank.waiting) + len(rank.running) for rank in self.ranks]
        return busy.index(min(busy))

    def _steps_of_one_pace(self, steps: int) -> int:
        """Steps until another rank than the fullest of now holds the most KV."""
        slowest = max(self.ranks, key=_kv_tokens)
        for rank in self.ranks:
            if rank.batch > slowest.batch:
                gap = slowest.kv_tokens - rank.kv_tokens
                steps = min(steps, gap // (rank.batch - slowest.batch) + 1)
        return steps

    def _charge_prefills(self, batch: int, noise: float) -> float:
        """Charges the prompt chunks of a step in which `batch` sequences decode; returns the
        seconds that they add to it. The slowest rank's work counts, and the experts of all."""
        prompt_tokens = sum(tokens for rank in self.ranks for _, tokens in rank.prefills)
        if not prompt_tokens:
            return 0.0
        model = self.physics
        step_s = model.prompt_step_s(batch, prompt_tokens)
        times: list[tuple[Sequence, float]] = []
        slowest_s = 0.0
        for rank in self.ranks:
            rank_s = 0.0
            for sequence, tokens in rank.prefills:
                seconds = model.prompt_work_s(tokens, sequence.computed_tokens + tokens)
                if sequence.computed_tokens != sequence.found_tokens:
                    seconds -= model.prefill_s  # paid with the first chunk
                rank_s += seconds
                times.append((sequence, seconds + step_s * tokens / prompt_tokens))
            slowest_s = max(slowest_s, rank_s)
        slowest_s += step_s
        share = noise * slowest_s / sum(seconds for _, seconds in times)
        for sequence, seconds in times:
            self.truth.charge_prefill(sequence, share * seconds)
        return slowest_s * noise

    def _charge_decode(
        self, under_way: StepsUnderWay, first_s: float, steps: int, *, ahead: int
    ) -> None:
        """Charges `steps` steps of decoding that begin `ahead` steps from now."""
        batch = kv_tokens = 0
        for rank in self.ranks:
            batch += rank.batch
            kv_tokens += rank.kv_tokens
        if not batch or not steps:
            return
        slowest = max(self.ranks, key=_kv_tokens)
        ramp_s = under_way.slope_s * (steps * (steps - 1) / 2)
        kv_first_s = under_way.kv_token_s * (slowest.kv_tokens + ahead * slowest.batch)
        self.truth.charge_decode(
            step=slowest.step + ahead,
            steps=steps,
            batch=batch,
            fixed_s=steps * (first_s - kv_first_s),
            kv_tokens=kv_tokens + ahead * batch,
            kv_s=steps * kv_first_s + ramp_s,
        )

    def _draw_noise(self, steps: int) -> float:
        """The factor on the time of `steps` steps: their mean of lognormal draws with mean 1."""
        sigma = self.config.noise_sigma
        if not sigma:
            return 1.0
        if not self._noise:
            self._noise = self._rng.standard_normal(_NOISE_BLOCK).tolist()
        sigma /= math.sqrt(steps)
        return math.exp(sigma * self._noise.pop() - sigma * sigma / 2)

    def _count_decoded(self, steps: int, end_s: float) -> None:
        """Counts the tokens of the sequences that decode in `steps` steps."""
        gap_s = (end_s - self._last_end_s) / steps
        for rank in self.ranks:
            if rank.batch:
                rank.counters.generation_tokens += steps * rank.batch
                rank.counters.inter_token_s.observe(gap_s, steps * rank.batch)
        self._last_end_s = end_s

    def _emit(self, rank: Rank, sequence: Sequence, now: float) -> None:
        """The token that follows a prefill."""
        counters = rank.counters
        counters.generation_tokens += 1
        if not sequence.output_tokens:
            sequence.first_token_s = now
            counters.prompt_tokens += sequence.prompt_tokens
            counters.prompt_tokens_cached += sequence.cached_tokens
            counters.ttft_s.observe(now - sequence.arrival_s)
        else:
            counters.inter_token_s.observe(now - sequence.preempted_s)
        sequence.output_tokens += 1
        if sequence.output_tokens == sequence.output.tokens:
            rank.remove(sequence)
        else:
            rank.decode(sequence)

    def _count_end(self, sequence: Sequence, end_s: float) -> None:
        siblings = self._requests[sequence.request.request_id]
        siblings.remove(sequence)
        if not siblings:
            del self._requests[sequence.request.request_id]
        counters = self.ranks[sequence.rank].counters
        counters.finished[sequence.output.finish_reason] += 1
        counters.request_prompt_tokens.observe(sequence.prompt_tokens)
        counters.request_generation_tokens.observe(sequence.output_tokens)
        admitted_s = sequence.arrival_s if sequence.admitted_s is None else sequence.admitted_s
        counters.e2e_s.observe(end_s - sequence.arrival_s)
        counters.queue_s.observe(admitted_s - sequence.arrival_s)
        counters.inference_s.observe(end_s - admitted_s)
        counters.prefill_s.observe(sequence.first_token_s - admitted_s)
        decode_s = end_s - sequence.first_token_s
        counters.decode_s.observe(decode_s)
        counters.tpot_s.observe(decode_s / max(1, sequence.output_tokens - 1))


def _kv_tokens(rank: Rank) -> int:
    return rank.kv_tokens
