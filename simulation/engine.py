"""A simulated vLLM engine: continuous batching with the step time of a MoE model.

Each step takes the running sequences first, then admits waiting ones in order of arrival, within a
budget of tokens: prefills are chunked and share the step with decodes. When KV blocks run out, the
sequence admitted last goes back to the head of the queue and is computed again. The rules are those
of vLLM's scheduler (vllm/v1/core/sched/scheduler.py); the time is `StepModel`'s with lognormal
noise. Pure: the caller tells the time; the same calls and seed give the same results.

`begin_step` decides and says how long the step takes, `finish_step` yields its tokens, so that
aborts and arrivals in between find an engine at work. `step` is both at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from scheduler.step_model import StepModel
from simulation.counters import EngineCounters
from simulation.kv_cache import BlockPool, blocks_for
from simulation.output import FinishReason
from simulation.sequences import Sequence, SequenceOutput, SequenceRequest, prompt_hashes

_NOISE_BLOCK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Size of an engine; the defaults are vLLM's, with the KV cache of Qwen3-30B-A3B on an H100.

    Attributes:
        max_num_seqs: sequences that run at once.
        max_num_batched_tokens: tokens of one step, prefill and decode together.
        num_gpu_blocks, block_size: the KV cache, block_size in tokens.
        max_model_len: most tokens of prompt and output together.
        noise_sigma: sigma of the lognormal factor on each step's time; its mean is 1.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    num_gpu_blocks: int = 6144
    block_size: int = 16
    max_model_len: int = 32_768
    noise_sigma: float = 0.05

    def __post_init__(self) -> None:
        least = min(self.max_num_seqs, self.max_num_batched_tokens, self.block_size)
        if least < 1 or self.max_model_len < 2 or self.noise_sigma < 0:
            raise ValueError(f"{self}: sizes are positive")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError("max_num_batched_tokens must not be below max_num_seqs")
        # Else a sequence could preempt all others and still not fit.
        if self.num_gpu_blocks * self.block_size < self.max_model_len:
            raise ValueError("the KV cache must hold one sequence of max_model_len tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """A step. `duration_s` is 0.0 when there was nothing to do."""

    duration_s: float
    outputs: tuple[SequenceOutput, ...]


class Engine:
    """One engine: a group of GPUs that steps together."""

    def __init__(self, config: EngineConfig, step_model: StepModel, seed: int) -> None:
        self.config = config
        self.step_model = step_model
        self.pool = BlockPool(config.num_gpu_blocks)
        self.counters = EngineCounters(longest_tokens=config.max_model_len)
        self._rng = np.random.default_rng(seed)
        self._noise: list[float] = []
        self._requests: dict[str, list[Sequence]] = {}
        self._running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        self._step: list[tuple[Sequence, int]] | None = None
        self._step_end_s = 0.0

    def __repr__(self) -> str:
        return (
            f"<Engine: {self.running} running, {self.waiting} waiting,"
            f" {self.pool.used_blocks}/{self.pool.total_blocks} blocks>"
        )

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._running or self._waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the blocks that sequences hold, 0 to 1; what is only cached does not count."""
        return self.pool.used_blocks / self.pool.total_blocks

    def add(self, request: SequenceRequest, now: float) -> None:
        """Queues all choices. Raises ValueError: empty, too long, or the id is in use."""
        if request.request_id in self._requests:
            raise ValueError(f"request {request.request_id} is in the engine already")
        if not request.prompt_ids or not request.outputs:
            raise ValueError("a request needs a prompt and a choice")
        longest = len(request.prompt_ids) + max(output.tokens for output in request.outputs)
        if longest > self.config.max_model_len:
            raise ValueError(f"{longest} tokens are more than {self.config.max_model_len}")
        if min(output.tokens for output in request.outputs) < 1:
            raise ValueError("an answer has at least one token")
        hashes = prompt_hashes(request, self.config.block_size)
        sequences = [
            Sequence(request, choice, hashes.copy(), now) for choice in range(len(request.outputs))
        ]
        self._requests[request.request_id] = sequences
        self._waiting.extend(sequences)
        self.counters.added += len(sequences)

    def abort(self, request_id: str) -> int:
        """Ends what is left of a request and frees its blocks at once; how many sequences."""
        sequences = self._requests.pop(request_id, ())
        for sequence in sequences:
            if sequence.admitted_s is not None and sequence in self._running:
                self._running.remove(sequence)
            else:
                self._waiting.remove(sequence)
            self._free(sequence)
            sequence.ended = True
            self.counters.finished[FinishReason.ABORT] += 1
        return len(sequences)

    def step(self, now: float) -> StepResult:
        """One whole step from `now`."""
        duration_s = self.begin_step(now)
        return StepResult(duration_s=duration_s, outputs=self.finish_step())

    def begin_step(self, now: float) -> float:
        """Chooses the tokens of the next step; how many seconds it takes, 0.0 with none.

        Raises RuntimeError when a step is under way.
        """
        if self._step is not None:
            raise RuntimeError("a step is under way")
        scheduled = self._schedule(now)
        duration_s = self._duration_s(scheduled)
        self._step = scheduled
        self._step_end_s = now + duration_s
        return duration_s

    def finish_step(self) -> tuple[SequenceOutput, ...]:
        """Ends the step: a token for every sequence whose computation has caught up.

        Raises RuntimeError when no step is under way.
        """
        if self._step is None:
            raise RuntimeError("no step is under way")
        scheduled, self._step = self._step, None
        outputs: list[SequenceOutput] = []
        computed_tokens = 0
        for sequence, tokens in scheduled:
            if sequence.ended:
                continue
            computed_tokens += 0 if sequence.decodes else tokens
            sequence.computed_tokens += tokens
            if not sequence.pending_tokens:
                outputs.append(self._emit(sequence, self._step_end_s))
        if scheduled:
            self.counters.step_tokens.observe(computed_tokens + len(outputs))
        return tuple(outputs)

    def _schedule(self, now: float) -> list[tuple[Sequence, int]]:
        budget = self.config.max_num_batched_tokens
        scheduled: list[tuple[Sequence, int]] = []
        preempted = False
        position = 0
        while position < len(self._running) and budget:
            sequence = self._running[position]
            tokens = min(sequence.pending_tokens, budget)
            count = len(self._running)
            kept = self._grow(sequence, tokens)
            preempted = preempted or len(self._running) < count
            if not kept:
                break
            scheduled.append((sequence, tokens))
            budget -= tokens
            position += 1
        most = self.config.max_num_seqs
        while not preempted and self._waiting and budget and self.running < most:
            sequence = self._waiting[0]
            if not self._admit(sequence, budget, now):
                break
            tokens = min(sequence.pending_tokens, budget)
            scheduled.append((sequence, tokens))
            budget -= tokens
        return scheduled

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        """Blocks for `tokens` more; the last of the batch make room. False: it had to go itself."""
        block_size = self.config.block_size
        wanted = blocks_for(sequence.computed_tokens + tokens, block_size)
        missing = wanted - len(sequence.blocks)
        if missing > 0:
            while (blocks := self.pool.allocate(missing)) is None:
                youngest = self._running.pop()
                self._preempt(youngest)
                if youngest is sequence:
                    return False
            sequence.blocks += blocks
        self._remember(sequence, sequence.computed_tokens + tokens)
        return True

    def _admit(self, sequence: Sequence, budget: int, now: float) -> bool:
        """Moves the head of the queue into the batch if all its tokens have room."""
        block_size = self.config.block_size
        # The last token is computed in any case: its output is what is asked for.
        shared = self.pool.lookup(sequence.hashes, (sequence.total_tokens - 1) // block_size)
        new_blocks = blocks_for(sequence.total_tokens, block_size) - len(shared)
        if not self.pool.fits(shared, new_blocks):
            return False
        self._waiting.popleft()
        self._running.append(sequence)
        self.pool.share(shared)
        sequence.blocks = shared
        sequence.found_tokens = sequence.computed_tokens = len(shared) * block_size
        if sequence.admitted_s is None:
            sequence.admitted_s = now
            sequence.cached_tokens = sequence.computed_tokens
            self.counters.cache_queries_tokens += sequence.prompt_tokens
            self.counters.cache_hits_tokens += sequence.cached_tokens
        return self._grow(sequence, min(sequence.pending_tokens, budget))

    def _remember(self, sequence: Sequence, tokens: int) -> None:
        """Makes blocks findable that become full; as early as in vLLM, when they are scheduled."""
        block_size = self.config.block_size
        for index in range(sequence.computed_tokens // block_size, tokens // block_size):
            self.pool.remember(sequence.blocks[index], sequence.block_hash(index, block_size))

    def _preempt(self, sequence: Sequence) -> None:
        self._free(sequence)
        sequence.computed_tokens = 0
        sequence.recomputes = True
        self._waiting.appendleft(sequence)
        self.counters.preemptions += 1

    def _free(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []

    def _duration_s(self, scheduled: list[tuple[Sequence, int]]) -> float:
        """Decode of the sequences that decode, and each prefill's share; noise on the sum."""
        if not scheduled:
            return 0.0
        model = self.step_model
        batch = kv_tokens = 0
        prefill_s = 0.0
        for sequence, tokens in scheduled:
            if sequence.decodes:
                batch += 1
                kv_tokens += sequence.total_tokens
                continue
            end = sequence.computed_tokens + tokens
            prefill_s += model.prefill_time_s(tokens, end)
            # The fixed part of a prefill is paid once, by its first chunk.
            if sequence.computed_tokens > sequence.found_tokens:
                prefill_s -= model.prefill_s
        return (model.decode_step_s(batch, kv_tokens) + prefill_s) * self._draw_noise()

    def _draw_noise(self) -> float:
        sigma = self.config.noise_sigma
        if not sigma:
            return 1.0
        if not self._noise:
            self._noise = self._rng.lognormal(-sigma * sigma / 2, sigma, _NOISE_BLOCK).tolist()
        return self._noise.pop()

    def _emit(self, sequence: Sequence, now: float) -> SequenceOutput:
        """One more token."""
        counters = self.counters
        sequence.recomputes = False
        sequence.output_tokens += 1
        counters.generation_tokens += 1
        if sequence.output_tokens == 1:
            sequence.first_token_s = now
            counters.prompt_tokens += sequence.prompt_tokens
            counters.prompt_tokens_cached += sequence.cached_tokens
            counters.ttft_s.observe(now - sequence.arrival_s)
        else:
            counters.inter_token_s.observe(now - sequence.last_token_s)
        sequence.last_token_s = now
        finish_reason = None
        if sequence.output_tokens == sequence.output.tokens:
            finish_reason = sequence.output.finish_reason
            self._finish(sequence, finish_reason)
        return SequenceOutput(
            request_id=sequence.request.request_id,
            choice=sequence.choice,
            tokens=sequence.output_tokens,
            cached_tokens=sequence.cached_tokens,
            finish_reason=finish_reason,
        )

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self._running.remove(sequence)
        self._free(sequence)
        sequence.ended = True
        siblings = self._requests[sequence.request.request_id]
        siblings.remove(sequence)
        if not siblings:
            del self._requests[sequence.request.request_id]
        counters = self.counters
        counters.finished[reason] += 1
        counters.request_prompt_tokens.observe(sequence.prompt_tokens)
        counters.request_generation_tokens.observe(sequence.output_tokens)
        admitted_s = sequence.arrival_s if sequence.admitted_s is None else sequence.admitted_s
        end_s = sequence.last_token_s
        counters.e2e_s.observe(end_s - sequence.arrival_s)
        counters.queue_s.observe(admitted_s - sequence.arrival_s)
        counters.inference_s.observe(end_s - admitted_s)
        counters.prefill_s.observe(sequence.first_token_s - admitted_s)
        decode_s = end_s - sequence.first_token_s
        counters.decode_s.observe(decode_s)
        if sequence.output_tokens > 1:
            counters.tpot_s.observe(decode_s / (sequence.output_tokens - 1))
        else:
            counters.tpot_s.observe(0.0)
