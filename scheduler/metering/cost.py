"""The meter of one group: it allocates the price of every instant to the runs on the group.

A group is a set of GPUs that step together and cost r $/s. While anything runs, r is shared by the
phase weights of the step model: a step that decodes B sequences and computes a chunk of prompt
spends P / (P + T(B)) of its time on the prompt and the rest on the sequences, each its 1/B of T(B)
and kappa for every KV token that it holds. `prompts.py` determines which prompt is computed:
prompts count in the order in which they were sent, each for its predicted time. A run decodes from
its first token on. Load of other clients takes its share as external load; requests in the engine's
queue take none. In a disaggregated group prefill and decode nodes are paid apart, by node share.

Each instant is allocated with the facts known at it. With a run's end the engine may tell what it
had of the steps (`clearing.py`) or how long it was there (`engine_phases.py`); nothing is
re-allocated later. Sequences share by counters, so an event costs O(1). Amounts are exact integers
(`totals.py`), cut at the ends of hours (`hours.py`). Times are nanoseconds of one clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from scheduler.contract import EngineReport
from scheduler.engine_steps import EngineTimes
from scheduler.metering.clearing import Clearing, had_of_engine
from scheduler.metering.engine_phases import return_outside
from scheduler.metering.external_load import ExternalLoad, Own, own_at
from scheduler.metering.hours import HourCuts
from scheduler.metering.prompts import SPENT_S, Prompts
from scheduler.metering.runs import Counters, NodeShare, Run, Share
from scheduler.metering.totals import SCALE_BITS, UNIT, RateSegment, Totals
from scheduler.metering.weights import NOTHING, StepTimes, cached_amount, weigh
from scheduler.step_time.step_model import StepModel

KV_STEP_TOKENS = 16
"""A sequence's KV tokens are counted again after this growth, one block."""
HISTORY = 256
"""Number of past changes kept, to compare a report with the runs at its time."""


class GroupMeter:
    """Meters one group from `opened_ns` on.

    `plan`: its price, sorted by time; `max_running`: sequences that its engine runs at once;
    `totals`: sums before.
    """

    def __init__(
        self,
        model: StepModel | None,
        plan: Sequence[RateSegment],
        opened_ns: int,
        *,
        max_running: int,
        nodes: NodeShare | None = None,
        totals: Totals | None = None,
    ) -> None:
        self.totals = Totals() if totals is None else totals.copy()
        self.hours = HourCuts(opened_ns, self.totals)
        self.external = ExternalLoad()
        self.serving = False
        self._present = True
        self.max_running = max_running
        self.nodes = nodes
        self._at_ns = opened_ns
        self._plan: deque[RateSegment] = deque()
        self._rate: int | None = None
        self._times = None if model is None else StepTimes(model)
        self._runs: dict[Run, None] = {}
        self._history: deque[tuple[int, Own]] = deque(maxlen=HISTORY)
        self._prompts = Prompts()
        self._sequences = self._kv_tokens = self._price = 0
        self._counters, self._clearing = Counters(), Clearing()
        self._stale = True
        self._weights = NOTHING
        self.set_plan(plan)

    def __repr__(self) -> str:
        return f"<GroupMeter: {self.running} running, {self._prompts.sequences} in prefill>"

    @property
    def running(self) -> int:
        """Own sequences, those in prefill included."""
        return self._sequences + self._prompts.sequences

    @property
    def decoding(self) -> tuple[int, int]:
        """Own sequences that decode, and their KV tokens."""
        return self._sequences, self._kv_tokens

    @property
    def observed_ns(self) -> int:
        """The time up to which everything is booked."""
        return self._at_ns

    @property
    def rate(self) -> int | None:
        """Nano-USD per hour at the moment; None: unknown."""
        return self._rate

    @property
    def model(self) -> StepModel | None:
        """The step model in use."""
        return None if self._times is None else self._times.model

    def set_plan(self, plan: Sequence[RateSegment]) -> None:
        """Replaces the prices from the last `advance` on; earlier time keeps its prices."""
        self._rate = None
        self._plan = deque(plan)
        while self._plan and self._plan[0].start_ns <= self._at_ns:
            self._rate = self._plan.popleft().nano_usd_per_hour

    def set_engine(self, max_running: int, nodes: NodeShare | None) -> None:
        """Replaces the settings from the last `advance` on."""
        self.max_running, self.nodes, self._stale = max_running, nodes, True

    def set_model(self, model: StepModel, now_ns: int) -> None:
        """Replaces the step model, after a new fit."""
        self.advance(now_ns)
        self._times, self._stale = StepTimes(model), True

    def set_serving(self, serving: bool, now_ns: int) -> None:
        """Sets whether the group is in service: time without runs is idle, else unavailable."""
        self.advance(now_ns)
        self.serving = serving

    def set_present(self, present: bool, now_ns: int) -> None:
        """Sets whether the group exists; a group that does not exist costs nothing."""
        if present is not self._present:
            self.advance(now_ns)
            self._present = present

    def start(
        self,
        now_ns: int,
        *,
        prompt_tokens: int,
        cached_tokens: int = 0,
        choices: int = 1,
        generates: bool = True,
    ) -> Run:
        """Adds an attempt. `cached_tokens`: those of its prompt predicted to be in the cache."""
        self.advance(now_ns)
        prefill_s, uncached = 0.0, max(1, prompt_tokens - cached_tokens)
        if self._times is not None:
            prefill_s = self._times.model.prefill_time_s(uncached, prompt_tokens, self._sequences)
        run = Run(
            choices=choices,
            prompt_tokens=prompt_tokens,
            prefill_s=prefill_s,
            left_s=prefill_s,
            sent_ns=now_ns,
            opened_unpriced_ns=self.totals.unpriced_ns,
            opened_price=self._price,
            generates=generates,
        )
        self._runs[run] = None
        self.external.pooled = not generates
        if prefill_s and generates:
            self._prompts.sent(run)
            self.external.sent(choices)
        else:
            self._decode(run)
        self._changed()
        return run

    def progress(self, run: Run, output_tokens: int, now_ns: int) -> None:
        """Records the tokens of a run so far, all choices together; the first ones end its
        prefill."""
        new = output_tokens - run.output_tokens
        if new <= 0:
            return
        kv_tokens = run.prompt_tokens + output_tokens
        first = not run.output_tokens
        run.output_tokens = output_tokens
        self.totals.output_tokens += new
        if not first and kv_tokens - run.kv_tokens < KV_STEP_TOKENS:
            return
        self.advance(now_ns)
        if first:
            self.external.prompt_done(run.prompt_tokens)
        if not run.decodes:
            self._decode(run)
        self._counters.collect(run)
        self._kv_tokens += kv_tokens - run.kv_tokens
        run.kv_tokens = kv_tokens
        self._stale = True
        if first:
            self._changed()

    def end(
        self,
        run: Run,
        now_ns: int,
        *,
        uncached_tokens: int = 0,
        cached_tokens: int = 0,
        output_tokens: int = 0,
        waste: bool = False,
        engine: EngineTimes | None = None,
    ) -> Share:
        """Ends an attempt, with the tokens that it is billed for. `engine`: its own seconds."""
        self.advance(now_ns)
        if run.decodes:
            self._counters.collect(run)
            self._sequences -= run.choices
            self._kv_tokens -= run.kv_tokens
        self._prompts.gone(run)
        self._runs.pop(run, None)
        self.external.ended(run.choices)
        self._changed()
        totals, clearing, price = self.totals, self._clearing, self._price - run.opened_price
        clearing.end(totals, run)
        had = None if self.nodes else had_of_engine(run, engine, now_ns - run.sent_ns, price)
        if had is None and clearing.balance >= 0:
            return_outside(totals, run, engine, now_ns, self.model if self.nodes else None)
        oldest = next(iter(self._runs), run)
        enough = (self._price - oldest.opened_price) << SCALE_BITS if self._runs else 0
        clearing.settle(totals, run, had or (run.prefill, run.decode), enough)
        prefill, decode = run.whole_amounts
        cached = cached_amount(self._times, prefill, uncached_tokens, cached_tokens)
        totals.prefill -= run.prefill
        totals.decode -= run.decode
        totals.idle += run.prefill + run.decode - (prefill + decode) * UNIT
        totals.output_tokens -= run.output_tokens
        if waste:
            totals.waste += (prefill + decode) * UNIT
        else:
            totals.prefill += prefill * UNIT
            totals.decode += decode * UNIT
            totals.cached += cached * UNIT
            totals.uncached_tokens += uncached_tokens
            totals.cached_tokens += cached_tokens
            totals.output_tokens += output_tokens
        return Share(
            uncached_input=prefill - cached,
            cached_input=cached,
            output=decode,
            by_steps=had is not None,
            priced=run.opened_unpriced_ns == totals.unpriced_ns,
        )

    def totals_if_lost(self) -> Totals:
        """The sums if all running attempts were lost now: their cost so far counts as waste."""
        lost = self.totals.copy()
        for run in self._runs:
            decode = run.decode + self._counters.owed(run)
            lost.prefill -= run.prefill
            lost.decode -= decode
            lost.waste += run.prefill + decode
            lost.output_tokens -= run.output_tokens
        self._clearing.lose(lost)
        return lost

    def unobserved(self, until_ns: int) -> None:
        """Books the time up to `until_ns` as unobserved, because the gateway was down."""
        self.advance(until_ns, observed=False)

    def report(self, report: EngineReport, at_ns: int, now_ns: int) -> None:
        """Records an engine's report of time `at_ns`."""
        self.advance(now_ns)
        sent_since = self._prompts.sent_after(at_ns)
        self.external.take(
            report,
            own_at(self._history, at_ns),
            self.model,
            now_ns,
            pending=self._prompts.sequences - sent_since,
            sent_since=sent_since,
        )
        if not self.external.waiting:
            for run in self._prompts.overdue(at_ns):
                self._decode(run)
        self._changed()

    def _changed(self) -> None:
        """Notes that the set of runs has changed, so that weights are computed again."""
        self._stale = True
        own = Own(self.running, self._sequences, self._kv_tokens)
        self._history.append((self._at_ns, own))

    def advance(self, now_ns: int, *, observed: bool = True) -> None:
        """Allocates the price of the time since the last call; an earlier time changes nothing."""
        while self._at_ns < now_ns:
            end_ns = min(now_ns, self.hours.next_ns)
            if self._plan and self._plan[0].start_ns < end_ns:
                end_ns = self._plan[0].start_ns
            if observed:
                self._spend(end_ns)
            else:
                self._book(end_ns, "unobserved")
            if end_ns == self.hours.next_ns:
                self.hours.cut(self.totals)
            while self._plan and self._plan[0].start_ns <= self._at_ns:
                self._rate = self._plan.popleft().nano_usd_per_hour

    def _book(self, end_ns: int, account: str) -> None:
        """Books the whole price up to `end_ns` to one account."""
        before = getattr(self.totals, account)
        setattr(self.totals, account, before + (self._pass(end_ns) << SCALE_BITS))

    def _pass(self, end_ns: int) -> int:
        """Moves the meter to `end_ns`; returns the price of that time, nano-USD per hour x ns."""
        elapsed_ns = end_ns - self._at_ns
        self._at_ns = end_ns
        if not self._present:
            return 0
        self.totals.paid_ns += elapsed_ns
        if self._rate is None:
            self.totals.unpriced_ns += elapsed_ns
            return 0
        self._price += self._rate * elapsed_ns
        return self._rate * elapsed_ns

    def _spend(self, until_ns: int) -> None:
        if self.external.expire(self._at_ns):
            self._stale = True
        while self._at_ns < until_ns:
            head = self._head()
            if self._stale:
                self._weigh(head)
            if not self._weights.busy:
                self._book(until_ns, "idle" if self.serving else "unavailable")
                return
            end_ns = until_ns
            if head is not None and head.left_s and self._weights.prompt_speed > 0.0:
                # To the end of its predicted prefill; then the next prompt's turn.
                lasts_ns = int(head.left_s / self._weights.prompt_speed * 1e9) + 1
                end_ns = min(until_ns, self._at_ns + lasts_ns)
            self._share(head, end_ns)

    def _share(self, head: Run | None, end_ns: int) -> None:
        """Allocates the price up to `end_ns` by the weights."""
        totals, weights = self.totals, self._weights
        elapsed_ns = end_ns - self._at_ns
        totals.busy_ns += elapsed_ns
        price = self._pass(end_ns)
        rest = price << SCALE_BITS
        if head is not None:
            totals.prefill_busy_ns += elapsed_ns
            amount = price * weights.prompt
            head.charge_prefill(amount, elapsed_ns * 1e-9 * weights.prompt_speed)
            totals.prefill += amount
            self._clearing.charge(amount, 0)
            rest -= amount
        self._counters.add(price, sequence=weights.sequence, kv=weights.kv, even=weights.even)
        amount = price * weights.own
        totals.decode += amount
        self._clearing.charge(0, amount)
        external = price * weights.external
        if len(self._runs) == 1 and not external:
            (run,) = self._runs
            run.alone += amount if head is None else amount + price * weights.prompt
        totals.external += external
        totals.idle += rest - amount - external
        if head is not None and head.left_s <= SPENT_S and self._prompts.spent(head):
            self._stale = True

    def _head(self) -> Run | None:
        """The run whose prompt has a share now."""
        return self._prompts.head(
            decoding=self._sequences,
            others=self.external.sequences,
            most=self.external.max_running or self.max_running,
            waiting=self.external.own_waiting,
        )

    def _weigh(self, head: Run | None) -> None:
        """Computes the weights of the instant."""
        prompts_s = None
        if head is not None and self._times is not None:
            prompts_s = self._prompts.seconds(self._times.chunk_s)
        self._weights = weigh(
            self._times,
            self.nodes,
            prompts_s=prompts_s,
            owed=head is not None and head.decodes,
            sequences=self._sequences,
            kv_tokens=self._kv_tokens,
            others=self.external.running(self._sequences),
            by_tokens=self.external.pooled,
        )
        self._stale = False

    def _decode(self, run: Run) -> None:
        """Charges the run as decoding sequences from now on."""
        self._prompts.answered(run, self._at_ns, queued=self.external.waiting > 0)
        run.decodes, run.decodes_ns = True, self._at_ns
        self._counters.mark(run)
        self._sequences += run.choices
        run.kv_tokens = run.prompt_tokens + run.output_tokens
        self._kv_tokens += run.kv_tokens
        self._stale = True
