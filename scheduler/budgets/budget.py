"""Budgets: reserve the worst case of a request, settle its actual cost, never exceed a cap.

Pure. A request reserves from the *lease* of its holder (a key, or one session of it). A lease is
money that the durable store has set aside in every account that the holder spends from, before
any of it is used:

    granted = settled + reserved + free          of each lease
    settled + granted but not settled <= cap     of each account, in the store

Beyond the reservations of running requests, a lease holds at most 2 % of the amount that its
accounts have left. A lease that a crash left open counts as spent until the store closes
it, because its whole grant counts.

`budget_book.py` holds the leases of one process; `grant` is the decision that the store takes in a
transaction of its own. The cost of a request beyond its reservation is an overrun. The overrun is
recorded and added to the grant, even past the cap, so that later requests are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.budgets.budget_window import Period, Window
from scheduler.pricing import MILLION, TokenRates

MOST_FREE_DIVISOR = 50
"""The free part of a lease is at most a 50th, 2 %, of the amount that its accounts have left."""
SPARE_DIVISOR = 67
"""A grant adds a 67th, 1.5 %, of the remaining money to the needed amount, so that the unused part
of reservations need not return to the store at once."""


Scope = tuple[str, str, bool, Period]
"""The scope of a budget: tenant, key id, whether each session has its own, period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A cap on the charges of a tenant, of one key (`key_id`), or of each session of either.

    `hard`: requests are refused at the cap; otherwise reaching the cap is only reported.
    """

    tenant: str
    period: Period
    cap_nano_usd: int
    key_id: str = ""
    each_session: bool = False
    hard: bool = True

    @property
    def scope(self) -> Scope:
        """The scope that the cap applies to."""
        return self.tenant, self.key_id, self.each_session, self.period


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class BudgetAccount:
    """One budget in one window. `session_id` is None if all sessions share the account."""

    tenant: str
    key_id: str
    session_id: str | None
    period: Period
    starts_unix_s: int

    @property
    def account_id(self) -> str:
        """Unique id of the account. The session id is its last part, because it may contain any
        character."""
        session = "" if self.session_id is None else f"/s={self.session_id}"
        return f"{self.period}/{self.starts_unix_s}/{self.tenant}/{self.key_id}{session}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """An account with its cap. `ends_unix_s`: when the account's window ends."""

    account: BudgetAccount
    cap_nano_usd: int
    hard: bool
    ends_unix_s: int

    @property
    def window(self) -> Window:
        """The window of the account."""
        return Window(
            period=self.account.period,
            starts_unix_s=self.account.starts_unix_s,
            ends_unix_s=self.ends_unix_s,
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of a lease. `session_id` is None if no budget of the holder is per session."""

    tenant: str
    key_id: str
    session_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """State of an account in the store. `committed`: settled plus granted but not settled."""

    limit: Limit
    settled_nano_usd: int
    committed_nano_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An account has no room. `transient`: room may appear when running requests settle."""

    limit: Limit
    needed_nano_usd: int
    left_nano_usd: int
    transient: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The amount granted, and the amount left in its accounts (None: no account is hard)."""

    nano_usd: int
    left_nano_usd: int | None


def grant(
    need_nano_usd: int, positions: Sequence[Position], *, free_nano_usd: int
) -> Grant | Refusal:
    """Grants the needed amount and a part of the rest, or returns the account that refuses.

    `free_nano_usd`: what the lease has already for the same request. It is committed, but no
    running request holds it, so that it makes no room by being settled.
    """
    hard = [position for position in positions if position.limit.hard]
    refusals = []
    for position in hard:
        cap = position.limit.cap_nano_usd
        left = cap - position.committed_nano_usd
        if need_nano_usd > left:
            refusals.append(
                Refusal(
                    limit=position.limit,
                    needed_nano_usd=need_nano_usd,
                    left_nano_usd=max(0, left),
                    transient=position.settled_nano_usd + free_nano_usd + need_nano_usd <= cap,
                )
            )
    if refusals:
        # A lasting refusal is reported first: a retry would only meet it later.
        return min(refusals, key=lambda refusal: refusal.transient)
    left_then = min(
        (p.limit.cap_nano_usd - p.committed_nano_usd - need_nano_usd for p in hard), default=None
    )
    if left_then is None:
        spare = min(p.limit.cap_nano_usd // SPARE_DIVISOR for p in positions)
        return Grant(nano_usd=need_nano_usd + spare, left_nano_usd=None)
    spare = left_then // SPARE_DIVISOR
    return Grant(nano_usd=need_nano_usd + spare, left_nano_usd=left_then - spare)


def worst_case_nano_usd(rates: TokenRates, *, input_tokens: int, output_tokens: int) -> int:
    """Upper bound of the cost of these tokens, rounded up. It assumes the most expensive kind of
    input, at the most expensive tier that an input of up to this length can reach."""
    worst = 0
    for tier in rates.tiers:
        if tier.context_over_tokens and tier.context_over_tokens >= input_tokens:
            break
        dearest = max(
            tier.uncached_input, tier.cached_input, tier.cache_write, tier.long_cache_write or 0
        )
        worst = max(worst, input_tokens * dearest + output_tokens * tier.output)
    return -(-worst // MILLION)
