"""An inference engine, one step at a time, as vLLM schedules and with a step time of its own.

A step gives every sequence that decodes one token, and fills the rest of its token budget with
prompts in order of arrival. It takes

    T = fixed + experts E (1 - (1 - k/E)^x) + each s + memory K + tokens u + attention sum n c

for x tokens of s sequences, u of them prompt tokens, K resident KV tokens, and n prompt tokens each
that attend to c tokens on average. Experts are uniform, and there is no noise. Nothing here is
imported from the step model, the simulated engine or the scheduler.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Seconds of the parts of a step, see the module; of one expert, sequence, token or pair."""

    experts: int
    experts_per_token: int
    fixed_s: float
    expert_s: float
    each_s: float
    memory_s: float
    token_s: float
    attention_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Bounds of an engine. `kv_tokens`: of its KV cache; `block_tokens`: of the blocks that
    prompts may share; `step_tokens`: of one step."""

    kv_tokens: int
    block_tokens: int
    sequences: int = 256
    step_tokens: int = 8192


@dataclass(slots=True, eq=False)
class Resident:
    """A request in an engine. `content`: names of the blocks that others may share."""

    name: str
    prompt_tokens: int
    output_tokens: int
    content: Sequence[Hashable] = ()
    computed: int = 0
    """Prompt tokens, and after a preemption output tokens too, whose KV is there."""
    generated: int = 0
    cached_tokens: int = 0
    shared: list[Hashable] = field(default_factory=list)
    """Blocks that it holds together with others."""
    found: bool = False
    """Whether the prefix cache was asked."""

    @property
    def target(self) -> int:
        """Tokens to compute before the next output."""
        return self.prompt_tokens + self.generated

    @property
    def decodes(self) -> bool:
        """Whether only its newest token is missing."""
        return self.generated > 0 and self.computed >= self.target - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a step did: `first` are sequences with their first token, `ended` with their last."""

    first: tuple[Resident, ...]
    ended: tuple[Resident, ...]


class RefereeEngine:
    """One replica. `begin` chooses a step and tells its seconds, `finish` ends it."""

    def __init__(self, figures: Figures, size: Size) -> None:
        self.figures, self.size = figures, size
        self.pace = 1.0
        """Factor on every step, for a GPU that is throttled."""
        self.waiting: deque[Resident] = deque()
        self.running: list[Resident] = []
        self.busy_s = 0.0
        self.decoded_gaps = 0
        self.decoded_gaps_s = 0.0
        self.steps = self.first_tokens = self.output_tokens = 0
        self.prompt_tokens = self.cached_tokens = self.preemptions = 0
        self.long_steps: list[tuple[float, float]] = []
        """End and seconds of the steps that computed prompts."""
        self._blocks: dict[Hashable, int] = {}
        """Holders of each block that may be shared."""
        self._idle: OrderedDict[Hashable, None] = OrderedDict()
        """Those that nobody holds, the longest unused first."""
        self._own_tokens = 0
        """KV tokens that sequences hold outside shared blocks."""
        self._chunks: list[tuple[Resident, int]] = []
        self._decoding: list[Resident] = []
        self._took_s = 0.0

    @property
    def used_tokens(self) -> int:
        """KV tokens that sequences hold."""
        held = len(self._blocks) - len(self._idle)
        return self._own_tokens + held * self.size.block_tokens

    @property
    def has_work(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Resident) -> None:
        """Queues a request."""
        self.waiting.append(sequence)

    def drop(self, name: str) -> Resident | None:
        """Takes a request out, wherever it is."""
        for line in (self.running, self.waiting):
            for sequence in line:
                if sequence.name == name:
                    line.remove(sequence)
                    self._release(sequence)
                    return sequence
        return None

    def clear(self) -> list[Resident]:
        """Loses everything, as a server that dies does."""
        lost = [*self.running, *self.waiting]
        self.running.clear()
        self.waiting.clear()
        self._blocks.clear()
        self._idle.clear()
        self._own_tokens = 0
        self._chunks, self._decoding = [], []
        return lost

    def begin(self) -> float:
        """Chooses the tokens of a step; returns its seconds, 0 with nothing to do."""
        self._decoding = [s for s in self.running if s.decodes]
        while self._decoding and not self._room(len(self._decoding)):
            self._preempt(self.running[-1])
            self._decoding = [s for s in self.running if s.decodes]
        self._own_tokens += len(self._decoding)
        budget = self.size.step_tokens - len(self._decoding)
        self._chunks = []
        for sequence in self.running:
            if not sequence.decodes and budget > 0:
                budget -= self._chunk(sequence, budget)
        while self.waiting and budget > 0 and len(self.running) < self.size.sequences:
            sequence = self.waiting[0]
            self._find(sequence)
            if not self._room(sequence.target - sequence.computed) and self.running:
                break
            self.waiting.popleft()
            self.running.append(sequence)
            budget -= self._chunk(sequence, budget)
        if not self._decoding and not self._chunks:
            return 0.0
        self._took_s = self.pace * self._seconds()
        return self._took_s

    def finish(self, now: float) -> Step:
        """Ends the step at `now`."""
        took_s = self._took_s
        first: list[Resident] = []
        ended: list[Resident] = []
        decoding, chunks = self._decoding, self._chunks
        self._decoding, self._chunks = [], []
        self.busy_s += took_s
        self.steps += 1
        if chunks:
            self.long_steps.append((now, took_s))
        for sequence in decoding:
            if sequence not in self.running:
                continue
            sequence.computed += 1
            sequence.generated += 1
            self.decoded_gaps += 1
            self.decoded_gaps_s += took_s
            self.output_tokens += 1
            if sequence.generated >= sequence.output_tokens:
                ended.append(sequence)
        for sequence, tokens in chunks:
            if sequence not in self.running:
                continue
            sequence.computed += tokens
            if sequence.computed < sequence.target:
                continue
            fresh = not sequence.generated
            self._share(sequence)
            sequence.generated += 1
            self.output_tokens += 1
            if fresh:
                self.first_tokens += 1
                self.prompt_tokens += sequence.prompt_tokens
                self.cached_tokens += sequence.cached_tokens
                first.append(sequence)
            if sequence.generated >= sequence.output_tokens:
                ended.append(sequence)
        for sequence in ended:
            self.running.remove(sequence)
            self._release(sequence)
        return Step(first=tuple(first), ended=tuple(ended))

    def _seconds(self) -> float:
        figures = self.figures
        decoding = len(self._decoding)
        prompt = sum(tokens for _, tokens in self._chunks)
        missed = (1.0 - figures.experts_per_token / figures.experts) ** (decoding + prompt)
        pairs = sum(n * (s.computed + n / 2.0) for s, n in self._chunks)
        resident = sum(s.computed + 1 for s in self._decoding)
        return (
            figures.fixed_s
            + figures.expert_s * figures.experts * (1.0 - missed)
            + figures.each_s * (decoding + len(self._chunks))
            + figures.memory_s * resident
            + figures.token_s * prompt
            + figures.attention_s * pairs
        )

    def _chunk(self, sequence: Resident, budget: int) -> int:
        tokens = min(budget, sequence.target - sequence.computed)
        self._own_tokens += tokens
        self._chunks.append((sequence, tokens))
        return tokens

    def _room(self, tokens: int) -> bool:
        """Whether so many more tokens fit; blocks that nobody holds make way."""
        while self._idle and self._total() + tokens > self.size.kv_tokens:
            block, _ = self._idle.popitem(last=False)
            del self._blocks[block]
        return self._total() + tokens <= self.size.kv_tokens

    def _total(self) -> int:
        return self._own_tokens + len(self._blocks) * self.size.block_tokens

    def _find(self, sequence: Resident) -> None:
        """Takes what the prefix cache has of the prompt; its last token is always computed."""
        if sequence.found:
            return
        sequence.found = True
        most = (sequence.target - 1) // self.size.block_tokens
        for block in sequence.content[:most]:
            if block not in self._blocks:
                break
            self._hold(sequence, block)
        sequence.computed = len(sequence.shared) * self.size.block_tokens
        if not sequence.generated:
            sequence.cached_tokens = sequence.computed

    def _hold(self, sequence: Resident, block: Hashable) -> None:
        self._blocks[block] = self._blocks.get(block, 0) + 1
        self._idle.pop(block, None)
        sequence.shared.append(block)

    def _share(self, sequence: Resident) -> None:
        """Makes the full blocks of a sequence findable; equal blocks are kept once."""
        full = min(len(sequence.content), sequence.computed // self.size.block_tokens)
        for block in sequence.content[len(sequence.shared) : full]:
            self._hold(sequence, block)
            self._own_tokens -= self.size.block_tokens

    def _release(self, sequence: Resident) -> None:
        if not sequence.found:
            return
        taken = sequence.computed + (sequence in self._decoding)
        taken += sum(n for s, n in self._chunks if s is sequence)
        self._share(sequence)
        own = taken - len(sequence.shared) * self.size.block_tokens
        self._own_tokens = max(0, self._own_tokens - own)
        for block in reversed(sequence.shared):  # vLLM drops the end of a prompt first
            self._blocks[block] -= 1
            if not self._blocks[block]:
                self._idle[block] = None
        sequence.shared = []
        sequence.found = False

    def _preempt(self, sequence: Resident) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        sequence.computed = 0
        self.waiting.appendleft(sequence)
        self.preemptions += 1
