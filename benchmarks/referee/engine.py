"""An inference engine, one step at a time, as vLLM schedules and with a step time of its own.

A step gives every sequence that decodes one token, and fills the rest of its token budget with
prompts in order of arrival: one is admitted only while all of its tokens fit beside those that run.
Where a sequence that runs has no room for its next tokens, the one admitted last gives its KV back,
waits at the head of the queue and is computed again, as far as the prefix cache does not have it;
nothing is admitted in such a step. So the oldest always goes on. A step takes

    T = fixed + experts E (1 - (1 - k/E)^x) + each s + memory K + tokens u + attention sum n c

for x tokens of s sequences, u of them prompt tokens, K resident KV tokens, and n prompt tokens each
that attend to c tokens on average. Experts are uniform, and there is no noise. Nothing here is
imported from the step model, the simulated engine or the scheduler.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile


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
    prompts may share; `step_tokens`: of one step. Raises ValueError: that is less than a batch."""

    kv_tokens: int
    block_tokens: int
    sequences: int = 256
    step_tokens: int = 8192

    def __post_init__(self) -> None:
        # Else more than one prompt could be left in part.
        if self.step_tokens < self.sequences:
            raise ValueError("step_tokens must not be below sequences")


@dataclass(slots=True, eq=False)
class Resident:
    """A request in an engine. `content`: names of the blocks that others may share.

    `longest_gap_s`: longest time between two of its tokens, as far as a step computed prompts in
    between; every other one is that of a step that only decodes.
    """

    name: str
    prompt_tokens: int
    output_tokens: int
    content: Sequence[Hashable] = ()
    computed: int = 0
    """Prompt tokens, and after a preemption output tokens too, whose KV is there."""
    generated: int = 0
    cached_tokens: int = 0
    """Found in the prefix cache when it was first admitted."""
    preemptions: int = 0
    shared: list[Hashable] = field(default_factory=list)
    """Blocks that it holds together with others."""
    longest_gap_s: float = 0.0
    preempted_s: float = 0.0
    """Time of its last token before it was preempted."""

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
        self._blocks: dict[Hashable, int] = {}
        """Holders of each block that may be shared."""
        self._idle: OrderedDict[Hashable, None] = OrderedDict()
        """Those that nobody holds, the longest unused first."""
        self._own_tokens = 0
        """KV tokens that sequences hold outside shared blocks."""
        self._chunks: list[tuple[Resident, int]] = []
        self._decoding: list[Resident] = []
        self._took_s = self._ended_s = 0.0

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
        """Queues a request. Raises ValueError: it would not fit even alone."""
        tokens = sequence.prompt_tokens + sequence.output_tokens
        if tokens > self.size.kv_tokens:
            raise ValueError(f"{tokens} tokens are more than {self.size.kv_tokens}")
        self.waiting.append(sequence)

    def drop(self, name: str) -> Resident | None:
        """Takes a request out, wherever it is."""
        for line in (self.running, self.waiting):
            for sequence in line:
                if sequence.name == name:
                    line.remove(sequence)
                    if line is self.running:
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
        before = self.preemptions
        decoding = [s for s in self.running if s.decodes]
        while not self._fits(len(decoding)):
            self._preempt_last()
            decoding = [s for s in self.running if s.decodes]
        self._take(len(decoding))
        budget = self.size.step_tokens - len(decoding)
        self._decoding, self._chunks = decoding, []
        if self.running and not self.running[-1].decodes:
            budget -= self._chunk(self.running[-1], budget)
        while (
            self.preemptions == before
            and self.waiting
            and budget > 0
            and len(self.running) < self.size.sequences
            and self._admit(self.waiting[0])
        ):
            sequence = self.waiting.popleft()
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
        self._ended_s = now
        for sequence in decoding:
            if sequence not in self.running:
                continue
            sequence.computed += 1
            sequence.generated += 1
            self.decoded_gaps += 1
            self.decoded_gaps_s += took_s
            self.output_tokens += 1
            if chunks:
                sequence.longest_gap_s = max(sequence.longest_gap_s, took_s)
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
            else:
                gap_s = now - sequence.preempted_s
                self.decoded_gaps += 1
                self.decoded_gaps_s += gap_s
                sequence.longest_gap_s = max(sequence.longest_gap_s, gap_s)
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
        """Takes up to `budget` tokens of the last that runs; returns how many. It has to leave
        where they do not fit."""
        tokens = min(budget, sequence.target - sequence.computed)
        if not self._fits(tokens):
            self._preempt_last()
            return 0
        self._take(tokens)
        self._chunks.append((sequence, tokens))
        return tokens

    def _fits(self, tokens: int) -> bool:
        """Whether so many more tokens fit, beside what sequences hold."""
        return self.used_tokens + tokens <= self.size.kv_tokens

    def _take(self, tokens: int) -> None:
        self._make_room(tokens)
        self._own_tokens += tokens

    def _make_room(self, tokens: int) -> None:
        """Drops blocks that nobody holds, the longest unused first, until so many more fit."""
        while self._idle and self._total() + tokens > self.size.kv_tokens:
            block, _ = self._idle.popitem(last=False)
            del self._blocks[block]

    def _total(self) -> int:
        return self._own_tokens + len(self._blocks) * self.size.block_tokens

    def _admit(self, sequence: Resident) -> bool:
        """Takes what the prefix cache has of a sequence, if all of its tokens fit.

        Its last token is always computed. Who does not fit holds nothing while it waits.
        """
        size = self.size.block_tokens
        most = (sequence.target - 1) // size
        known = list(takewhile(self._blocks.__contains__, sequence.content[:most]))
        idle = sum(block in self._idle for block in known)
        missing = sequence.target - len(known) * size
        if not self._fits(missing + idle * size):
            return False
        for block in known:
            self._hold(sequence, block)
        sequence.computed = len(known) * size
        if not sequence.preemptions:
            sequence.cached_tokens = sequence.computed
        return True

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
        """Gives back what a sequence that runs, or ends, holds; its full blocks can be found."""
        held = sequence.computed + (sequence in self._decoding)
        held += sum(n for s, n in self._chunks if s is sequence)
        self._share(sequence)
        self._own_tokens -= held - len(sequence.shared) * self.size.block_tokens
        for block in reversed(sequence.shared):
            self._blocks[block] -= 1
            if not self._blocks[block]:
                self._idle[block] = None
        sequence.shared = []

    def _preempt_last(self) -> None:
        sequence = self.running.pop()
        if sequence.decodes:
            sequence.preempted_s = self._ended_s
        # What only it has, its output for one, is there for itself as long as there is room.
        full = sequence.computed // self.size.block_tokens
        own = range(len(sequence.content), full)
        sequence.content = [*sequence.content, *((sequence.name, index) for index in own)]
        self._release(sequence)
        sequence.computed = 0
        sequence.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(sequence)
