"""What a key has used of its budgets, as its callers may see it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.budgets.budget_window import Period


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStanding:
    """A budget of a key, or of its tenant, in its current window.

    Attributes:
        of_key: it is the key's own budget; otherwise all keys of the tenant share it.
        spent_nano_usd: what ended requests are charged with. Running ones are not in it.
        hard: requests are refused at the cap.
        ends_unix_s: when the window ends.
    """

    of_key: bool
    period: Period
    cap_nano_usd: int
    spent_nano_usd: int
    hard: bool
    ends_unix_s: int

    @property
    def is_spent(self) -> bool:
        """Whether the cap is reached."""
        return self.spent_nano_usd >= self.cap_nano_usd

    @property
    def used_share(self) -> float:
        """Spent over cap; 1 for a cap of 0."""
        return self.spent_nano_usd / self.cap_nano_usd if self.cap_nano_usd else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendSince:
    """What a key has used since `starts_unix_s`, in ended requests."""

    starts_unix_s: int
    requests: int
    tokens: int
    charged_nano_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpend:
    """What a key has used in the current day, week (from Monday) and month of UTC."""

    day: SpendSince
    week: SpendSince
    month: SpendSince


def binding_budget(standings: Iterable[BudgetStanding]) -> BudgetStanding | None:
    """The budget that will stop the key first: a hard one if there is one; then one that is spent,
    and of these the one whose window ends last; then the one with the largest share used. None:
    there is no budget."""

    def rank(each: BudgetStanding) -> tuple[bool, bool, float]:
        measure = float(each.ends_unix_s) if each.is_spent else each.used_share
        return each.hard, each.is_spent, measure

    return max(standings, key=rank, default=None)
