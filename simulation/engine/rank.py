"""One rank of an engine: its queue, its batch, its KV blocks, by the rules of vLLM's scheduler.

Each step takes the running sequences first, then admits waiting ones in order of arrival, within a
budget of tokens: prefills are chunked and share the step with decodes. When KV blocks run out, the
sequence admitted last goes back to the head of the queue and is computed again
(vllm/v1/core/sched/scheduler.py).

As the budget holds the whole batch, every sequence that decodes gets its token in every step, and
at most one prefill is left in part: the last that was admitted. So the batch is kept as sums: how
many decode, their tokens, the step in which each ends, and how many need a new block in which
step. A step without an event costs O(1), and so do many (`quiet_steps`, `advance`).
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from simulation.engine.cost_truth import CostTruth
from simulation.engine.counters import EngineCounters
from simulation.engine.kv_cache import BlockPool, blocks_for
from simulation.engine.sequences import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSize:
    """Bounds of a rank, as in `EngineConfig`."""

    max_num_seqs: int
    max_num_batched_tokens: int
    num_gpu_blocks: int
    block_size: int
    extent_blocks: int
    max_loras: int = 1


class Rank:
    """The state of one rank. `step` counts its steps; blocks of a step are taken when it begins."""

    def __init__(self, size: RankSize, counters: EngineCounters, truth: CostTruth) -> None:
        self.size = size
        self.pool = BlockPool(size.num_gpu_blocks, size.extent_blocks)
        self.waiting: deque[Sequence] = deque()
        self.running: dict[Sequence, None] = {}
        """Sequences of the batch, in order of admission."""
        self.prefills: list[tuple[Sequence, int]] = []
        """Prefill chunks of the step under way, with their tokens."""
        self.batch = 0
        """Number of sequences that decode; `kv_tokens` is the sum of their tokens."""
        self.kv_tokens = 0
        self.step = 0
        self._extent_tokens = size.block_size * size.extent_blocks
        self._partial: Sequence | None = None
        self._ends: list[tuple[int, int, Sequence]] = []
        self._entries = 0
        self._growers = [0] * size.block_size
        """Sequences that need a new block in the steps of each remainder."""
        self._in_step = False
        self._preempted = False
        self.counters = counters
        self._truth = truth

    def schedule(self, now: float) -> None:
        """Chooses what the next step computes: all that decode, and `prefills`."""
        self._preempted = False
        size = self.size
        growers = self._growers[self.step % size.block_size]
        while growers > self.pool.free_blocks:
            self._preempt_youngest(now)
            growers = self._growers[self.step % size.block_size]
        self.pool.take(growers)
        self._in_step = True
        budget = size.max_num_batched_tokens - self.batch
        self.prefills = []
        partial, self._partial = self._partial, None
        if partial is not None:
            tokens = min(partial.pending_tokens, budget)
            if self._grow(partial, tokens):
                self.prefills.append((partial, tokens))
                budget -= tokens
            else:
                self._partial = partial
                self._preempt_youngest(now)
        skipped: list[Sequence] = []
        while not self._preempted and self.waiting and budget > 0:
            if not self._has_adapter_slot(self.waiting[0]):
                skipped.append(self.waiting.popleft())
                continue
            if len(self.running) >= size.max_num_seqs or not self._admit(self.waiting[0], now):
                break
            sequence = self.waiting.popleft()
            tokens = min(sequence.pending_tokens, budget)
            self._grow(sequence, tokens)
            self.prefills.append((sequence, tokens))
            budget -= tokens
        self.waiting.extendleft(reversed(skipped))

    def quiet_steps(self, most: int) -> int:
        """Steps, the one just scheduled included, in which nothing but decoding happens."""
        if self.prefills or (self._preempted and self.waiting):
            return 1
        steps = most
        ends = self._ends
        while ends and not self._is_valid(ends[0]):
            heapq.heappop(ends)
        if ends:
            steps = min(steps, ends[0][0] - self.step)
        block_size = self.size.block_size
        free = self.pool.free_blocks
        if self.batch * (steps // block_size + 1) <= free:
            return steps
        for ahead in range(1, steps):
            free -= self._growers[(self.step + ahead) % block_size]
            if free < 0:
                return ahead
        return steps

    def advance(self, steps: int, *, goes_on: bool) -> None:
        """Ends `steps` steps of decoding; `goes_on`: one more is under way and has its blocks."""
        first, size = self.step, self.size.block_size
        self.step += steps
        self.kv_tokens += steps * self.batch
        self._in_step = goes_on
        later = steps if goes_on else steps - 1
        if not self.batch or not later:
            return
        rounds, rest = divmod(later, size)
        blocks = rounds * self.batch
        for ahead in range(1, rest + 1):
            blocks += self._growers[(first + ahead) % size]
        self.pool.take(blocks)

    def finish_prefills(self) -> list[Sequence]:
        """After the step's `advance`: chunks are computed; those that are complete now."""
        complete = []
        for sequence, tokens in self.prefills:
            if sequence.ended:
                continue
            sequence.computed_tokens += tokens
            if sequence.pending_tokens:
                self._partial = sequence
            else:
                complete.append(sequence)
        self.prefills = []
        return complete

    def decode(self, sequence: Sequence) -> None:
        """Records that the sequence has its token of this step and continues."""
        total = sequence.total_tokens
        sequence.decodes = True
        sequence.base = total - self.step
        sequence.end_step = self.step + sequence.output.tokens - sequence.output_tokens
        self.batch += 1
        self.kv_tokens += total
        self._growers[(1 - sequence.base) % self.size.block_size] += 1
        self._entries += 1
        heapq.heappush(self._ends, (sequence.end_step, self._entries, sequence))
        self._truth.begin(sequence)

    def ended(self) -> list[Sequence]:
        """Takes the sequences that have their last token out of the batch."""
        gone = []
        ends = self._ends
        while ends and ends[0][0] <= self.step:
            entry = heapq.heappop(ends)
            if self._is_valid(entry):
                gone.append(entry[2])
        for sequence in gone:
            self.remove(sequence)
        return gone

    def output_tokens(self, sequence: Sequence) -> int:
        """Output tokens of a sequence so far."""
        if sequence.decodes:
            return sequence.base + self.step - sequence.prompt_tokens
        return sequence.output_tokens

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out wherever it is, and gives its blocks back."""
        if sequence in self.running:
            del self.running[sequence]
            if self._partial is sequence:
                self._partial = None
            self._release(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.ended = True

    def _is_valid(self, entry: tuple[int, int, Sequence]) -> bool:
        return entry[2].decodes and entry[2].end_step == entry[0]

    def _has_adapter_slot(self, sequence: Sequence) -> bool:
        """Whether its adapter may be computed beside those of the batch."""
        adapter = sequence.request.adapter
        if not adapter:
            return True
        adapters = {other.request.adapter for other in self.running} - {""}
        return adapter in adapters or len(adapters) < self.size.max_loras

    def _admit(self, sequence: Sequence, now: float) -> bool:
        """Moves the head of the queue into the batch if all its tokens have room."""
        # The last token is always computed, because its output is the next token.
        most = (sequence.total_tokens - 1) // self._extent_tokens
        shared = self.pool.lookup(sequence.keys(most, self._extent_tokens), most)
        shared_blocks = len(shared) * self.size.extent_blocks
        blocks = blocks_for(sequence.total_tokens, self.size.block_size)
        if not self.pool.fits(shared, blocks - shared_blocks):
            return False
        self.running[sequence] = None
        self.pool.share(shared)
        sequence.named = shared
        sequence.named_upto = len(shared)
        sequence.blocks = shared_blocks
        sequence.found_tokens = sequence.computed_tokens = len(shared) * self._extent_tokens
        if sequence.request.transferred and not sequence.output_tokens:
            sequence.found_tokens = sequence.computed_tokens = sequence.total_tokens - 1
        sequence.scheduled_s = now
        if sequence.admitted_s is None:
            sequence.admitted_s = now
            sequence.cached_tokens = sequence.computed_tokens
            self.counters.cache_queries_tokens += sequence.prompt_tokens
            self.counters.cache_hits_tokens += sequence.cached_tokens
        return True

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        """Takes blocks for `tokens` more; returns False if too few are free."""
        upto = sequence.computed_tokens + tokens
        missing = blocks_for(upto, self.size.block_size) - sequence.blocks
        if missing > self.pool.free_blocks:
            return False
        self.pool.take(missing)
        sequence.blocks += missing
        self._name(sequence, upto)
        return True

    def _name(self, sequence: Sequence, tokens: int) -> None:
        """Makes extents findable that become full; as early as in vLLM, when they are scheduled."""
        full = tokens // self._extent_tokens
        if full <= sequence.named_upto:
            return
        keys = sequence.keys(full, self._extent_tokens)
        for index in range(sequence.named_upto, min(full, len(keys))):
            if self.pool.remember(keys[index]):
                sequence.named.append(keys[index])
        sequence.named_upto = full

    def _name_own(self, sequence: Sequence) -> None:
        """Names the full extents whose content no request tells, so that a sequence that is
        preempted finds its own again."""
        full = sequence.computed_tokens // self._extent_tokens
        own = [(sequence, index) for index in range(len(sequence.known), full)]
        sequence.known = (*sequence.known, *own)
        sequence.named += (key for key in own if self.pool.remember(key))

    def _preempt_youngest(self, now: float) -> None:
        sequence, _ = self.running.popitem()
        if self._partial is sequence:
            self._partial = None
        if sequence.decodes:
            self._leave(sequence)
        self._name_own(sequence)
        self._release(sequence)
        sequence.computed_tokens = 0
        sequence.preempted_s = now
        sequence.preemptions += 1
        self.waiting.appendleft(sequence)
        self._preempted = True
        self.counters.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        """Gives the blocks back; what a sequence that decoded has filled is findable from now."""
        if sequence.decodes:
            self._leave(sequence)
        named_blocks = len(sequence.named) * self.size.extent_blocks
        # The nameless part of a larger extent is mostly full blocks, which vLLM caches.
        unfilled = sequence.blocks - sequence.named_upto if self.size.extent_blocks == 1 else 0
        self.pool.release(sequence.named, sequence.blocks - named_blocks, unfilled)
        sequence.named = []
        sequence.named_upto = 0
        sequence.blocks = 0

    def _leave(self, sequence: Sequence) -> None:
        """Removes the sequence from the sums and stores its length."""
        self._truth.settle(sequence)
        total = sequence.base + self.step
        self.batch -= 1
        self.kv_tokens -= total
        self._growers[(1 - sequence.base) % self.size.block_size] -= 1
        sequence.decodes = False
        sequence.output_tokens = total - sequence.prompt_tokens
        # The newest token is computed in the step that is under way, if one is.
        sequence.computed_tokens = total if self._in_step else total - 1
        sequence.blocks = blocks_for(sequence.computed_tokens, self.size.block_size)
        self._name(sequence, sequence.computed_tokens)
