"""The meters of all groups, with sums by pool over the last minute, hour and day.

Pure: the caller gives the time in nanoseconds of one clock (Unix time that only moves forward) and
calls `tick` every few seconds. A window is the difference between the sums now and the sums kept
from its start, so events need no work for windows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from scheduler.metering.cost import GroupMeter
from scheduler.metering.hours import Amounts, PoolHours, difference, plus
from scheduler.metering.minutes import Minutes, Sums, newest_at
from scheduler.metering.rates import PhaseLoad, RateKind, imbalance
from scheduler.metering.report import KindRates, LoadPoint, kind_rates, phase_load
from scheduler.metering.runs import NodeShare
from scheduler.metering.totals import (
    HOUR_NS,
    SECOND_NS,
    UNIT,
    RateSegment,
    Totals,
    accounts_nano_usd,
    summed,
)
from scheduler.step_time.step_model import StepModel

FINE_NS = 5 * SECOND_NS
MINUTE_NS = 60 * SECOND_NS
FINE_KEPT = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredGroup:
    """A group to meter. `plan`: its prices, sorted by time."""

    name: str
    pool: str
    model: StepModel | None
    plan: Sequence[RateSegment]
    max_running: int
    nodes: NodeShare | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterCheckpoint:
    """The state that survives a restart: per group the end of its observed time, and its sums."""

    observed_ns: int
    totals: Mapping[str, Totals]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolHour:
    """What was added to the accounts of a pool in an hour (since 1970). `amounts`: by name of
    `hours.AMOUNTS`."""

    pool: str
    hour: int
    amounts: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCost:
    """Cost of a pool over a window. Amounts in nano-USD; `accounts` sum to `bill`.

    Attributes:
        covered_ns: length of the window, shorter while the meter is young.
        unpriced_ns: of the groups' time in it, without a known price: in no sum.
        utilisation: share of the paid time in which something ran; None: no time was paid.
        charged: what tenants were charged.
        requests: that ended well.
        phases, warning: of a disaggregated pool: load of its stages, and what is wrong with it.
        load: its minutes with tokens.
    """

    pool: str
    covered_ns: int
    bill: int
    accounts: Mapping[str, int]
    unpriced_ns: int
    utilisation: float | None
    charged: int
    requests: int
    uncached_tokens: int
    cached_tokens: int
    output_tokens: int
    rates: tuple[KindRates, ...]
    phases: PhaseLoad | None
    warning: str | None
    load: tuple[LoadPoint, ...]

    def rate(self, kind: RateKind) -> KindRates:
        """The rates of one kind of token."""
        return next(rates for rates in self.rates if rates.kind is kind)


@dataclass(slots=True)
class _Pool:
    fine: deque[Sums]
    minutes: Minutes
    gone: Totals = field(default_factory=Totals)
    """Sums of groups that are no longer configured."""
    hours: PoolHours = field(default_factory=PoolHours)


class Meter:
    """Meters all groups. Call `configure` first; removed groups are metered until they are
    empty."""

    def __init__(self, checkpoint: MeterCheckpoint | None = None) -> None:
        """`checkpoint`: state of the previous process; the time since then is booked as
        unobserved."""
        self._checkpoint = checkpoint
        self._groups: dict[str, GroupMeter] = {}
        self._pool_of: dict[str, str] = {}
        self._leaving: set[str] = set()
        self._pools: dict[str, _Pool] = {}

    @property
    def pools(self) -> list[str]:
        """Pools with history."""
        return sorted(self._pools)

    @property
    def groups(self) -> list[str]:
        """Groups that are metered now."""
        return list(self._groups)

    def group(self, name: str) -> GroupMeter | None:
        """The meter of a group."""
        return self._groups.get(name)

    def configure(self, groups: Iterable[MeteredGroup], now_ns: int) -> None:
        """Opens new groups, updates prices and settings of known ones, and closes the others."""
        wanted = {group.name: group for group in groups}
        for name, facts in wanted.items():
            known = self._groups.get(name)
            if known is not None and self._pool_of[name] == facts.pool:
                known.advance(now_ns)
                known.set_plan(facts.plan)
                known.set_engine(facts.max_running, facts.nodes)
                continue
            self._open(facts, now_ns)
        self._leaving = set(self._groups) - set(wanted)
        self._checkpoint = None
        self._let_go()

    def _open(self, facts: MeteredGroup, now_ns: int) -> None:
        before = self._checkpoint.totals.get(facts.name) if self._checkpoint else None
        observed_ns = now_ns
        if self._checkpoint is not None and before is not None:
            observed_ns = min(now_ns, self._checkpoint.observed_ns)
        meter = GroupMeter(
            facts.model,
            facts.plan,
            observed_ns,
            max_running=facts.max_running,
            nodes=facts.nodes,
            totals=before,
        )
        self._groups[facts.name] = meter
        self._pool_of[facts.name] = facts.pool
        pool = self._pools.get(facts.pool)
        if pool is None:
            # Windows begin here; after a restart at the checkpoint, so that they hold the gap.
            begin = (observed_ns, meter.totals.copy())
            fine = deque([begin], maxlen=FINE_KEPT)
            pool = self._pools[facts.pool] = _Pool(fine=fine, minutes=Minutes(begin))
        elif before is not None:
            at_ns, sums = pool.minutes.last
            start = summed([sums, before])
            pool.fine[-1] = (at_ns, start)
            pool.minutes.restate(start)
        pool.hours.sums = plus(pool.hours.sums, meter.totals)
        meter.unobserved(now_ns)

    def _let_go(self) -> None:
        for name in [n for n in self._leaving if not self._groups[n].running]:
            self._leaving.discard(name)
            meter = self._groups.pop(name)
            pool = self._pools[self._pool_of.pop(name)]
            pool.gone = summed([pool.gone, meter.totals])
            pool.hours.add(meter.hours.take(meter.totals))

    def tick(self, now_ns: int) -> None:
        """Books the time until now, and keeps the sums that later windows start from."""
        for meter in self._groups.values():
            meter.advance(now_ns)
        self._let_go()
        for name, pool in self._pools.items():
            if now_ns - pool.fine[-1][0] >= FINE_NS:
                sums = self._sums(name)
                pool.fine.append((now_ns, sums))
                if now_ns - pool.minutes.last[0] >= MINUTE_NS:
                    pool.minutes.end(now_ns, sums)

    def checkpoint(self, now_ns: int) -> MeterCheckpoint:
        """The state for a restart. Running attempts count as waste, since a restart loses them."""
        totals = {}
        for name, meter in self._groups.items():
            meter.advance(now_ns)
            totals[name] = meter.totals_if_lost()
        return MeterCheckpoint(observed_ns=now_ns, totals=totals)

    def take_hours(self, now_ns: int) -> list[PoolHour]:
        """What the hours have added to each pool's accounts since the last call."""
        self.tick(now_ns)
        for name, meter in self._groups.items():
            self._pools[self._pool_of[name]].hours.add(meter.hours.take(meter.totals))
        return [
            PoolHour(pool=name, hour=hour, amounts=amounts)
            for name, pool in self._pools.items()
            for hour, amounts in pool.hours.take()
        ]

    def lost_hours(self) -> list[PoolHour]:
        """What a crash now would change in the accounts after `take_hours`: the cost of the running
        attempts counts as waste."""
        changed: dict[str, Totals] = {}
        for name, meter in self._groups.items():
            lost = meter.totals_if_lost().minus(meter.totals)
            pool = self._pool_of[name]
            changed[pool] = plus(changed.get(pool, Totals()), lost)
        found = []
        for pool, lost in changed.items():
            sums = self._pools[pool].hours.sums
            amounts = difference(plus(sums, lost), sums)
            if any(amounts.values()):
                hour = max(m.observed_ns for m in self._groups.values()) // HOUR_NS
                found.append(PoolHour(pool=pool, hour=hour, amounts=amounts))
        return found

    def cost(self, pool_name: str, window_ns: int, now_ns: int) -> PoolCost | None:
        """Cost of a pool over the window that ends now; None: no such pool."""
        pool = self._pools.get(pool_name)
        if pool is None:
            return None
        self.tick(now_ns)
        now = self._sums(pool_name)
        from_ns = now_ns - window_ns
        fine = window_ns <= MINUTE_NS
        start_ns, before = newest_at(pool.fine, from_ns) if fine else pool.minutes.at(from_ns)
        window = now.minus(before)
        groups = [m for name, m in self._groups.items() if self._pool_of[name] == pool_name]
        nodes = groups[0].nodes if groups else None
        phases = phase_load(window, groups) if nodes is not None else None
        accounts = accounts_nano_usd(window)
        return PoolCost(
            pool=pool_name,
            covered_ns=now_ns - start_ns,
            bill=window.accrued // UNIT,
            accounts=accounts,
            unpriced_ns=window.unpriced_ns,
            utilisation=window.busy_ns / window.paid_ns if window.paid_ns else None,
            charged=window.charged_nano_usd,
            requests=window.ended,
            uncached_tokens=window.uncached_tokens,
            cached_tokens=window.cached_tokens,
            output_tokens=window.output_tokens,
            rates=kind_rates(window, pool.minutes.best((now_ns, now)), groups, nodes),
            phases=phases,
            warning=None if phases is None else imbalance(phases),
            load=tuple(pool.minutes.points(start_ns, (now_ns, now))),
        )

    def _sums(self, pool_name: str) -> Totals:
        members = [m.totals for name, m in self._groups.items() if self._pool_of[name] == pool_name]
        return summed([self._pools[pool_name].gone, *members])
