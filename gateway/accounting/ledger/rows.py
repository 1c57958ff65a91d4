"""Rows of the ledger: of settled attempts, and of the ledger's own corrections and recoveries."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.accounting.ledger.schema import ATTEMPT_COLUMNS, RowState
from scheduler.budgets.budget_book import BudgetSettlement
from scheduler.metering.settlement import SettledAttempt

INSERT = (
    f"INSERT INTO attempt ({', '.join(ATTEMPT_COLUMNS)}) "
    f"VALUES ({', '.join(f'${i + 1}' for i in range(len(ATTEMPT_COLUMNS)))})"
)
_encoder = msgspec.json.Encoder()


class PendingRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A row that waits to be written, in a form that the spool can store."""

    values: tuple[str | int | None, ...]
    """Values of `ATTEMPT_COLUMNS` after the first two (epoch and number)."""
    charged_nano_usd: int
    """0 where it is unknown."""
    budgeted_nano_usd: int
    """The amount that counts in budgets."""
    overrun_nano_usd: int
    """The part of it that exceeds what its lease had free."""
    lease_id: str
    """The lease that it spent from; "" where there is none."""
    other_account_ids: tuple[str, ...]
    """Budget accounts that count it and that its lease does not cover."""


def row_state(settled: SettledAttempt) -> RowState:
    """The state of an attempt's row."""
    if settled.charged_nano_usd is None:
        return RowState.UNPRICED
    if settled.usage is not None and settled.usage.estimated:
        return RowState.ESTIMATED
    return RowState.FINAL


def pending_row(settled: SettledAttempt, budget: BudgetSettlement | None) -> PendingRow:
    """The row of an attempt. `budget`: how it counts; None where no budget applied."""
    charged = settled.charged_nano_usd or 0
    if budget is None:
        return PendingRow(_values(settled, charged, ""), charged, charged, 0, "", ())
    lease_id, budgeted = budget.lease_id or "", budget.budgeted_nano_usd
    others = tuple(account.account_id for account in budget.others)
    values = _values(settled, budgeted, lease_id)
    return PendingRow(values, charged, budgeted, budget.overrun_nano_usd, lease_id, others)


def _values(
    settled: SettledAttempt, budgeted_nano_usd: int, lease_id: str
) -> tuple[str | int | None, ...]:
    usage = settled.usage
    parts = [(part.kind._value_, part.tokens, part.nano_usd) for part in settled.parts]
    return (
        row_state(settled)._value_,
        # The scheduler's ids begin with the key, so that two keys may choose the same one.
        settled.request_id.removeprefix(f"{settled.key_id}/"),
        settled.attempt,
        settled.key_id,
        settled.tenant,
        settled.session_id,
        settled.model,
        settled.slo_class._value_,
        settled.placement,
        settled.pool,
        settled.kind._value_,
        settled.outcome._value_,
        round(settled.started_unix_s * 1e6),
        round(settled.ended_unix_s * 1e6),
        None if usage is None else usage.prompt_tokens,
        None if usage is None else usage.cached_tokens,
        None if usage is None else usage.all_cache_write_tokens,
        None if usage is None else usage.completion_tokens,
        None if usage is None else usage.reasoning_tokens,
        settled.metered_nano_usd,
        settled.charged_nano_usd,
        budgeted_nano_usd,
        "" if settled.basis is None else settled.basis._value_,
        settled.price_row_id,
        _encoder.encode(parts).decode() if parts else "",
        settled.cheapest_remote_nano_usd,
        int(settled.final),
        lease_id,
        "",
        settled.end_user,
        settled.labels_json,
    )


def bare_row(**values: object) -> tuple[Any, ...]:
    """A row that is no attempt; columns that are not given are empty, 0 or unknown."""
    blank: dict[str, object] = dict.fromkeys(ATTEMPT_COLUMNS, "")
    for name in ("attempt", "budgeted_nano_usd"):
        blank[name] = 0
    blank["last_attempt"] = 1
    for name in ATTEMPT_COLUMNS:
        if name.endswith("_tokens") or name in (
            *("metered_nano_usd", "charged_nano_usd", "cheapest_remote_nano_usd"),
        ):
            blank[name] = None
    unknown = values.keys() - blank.keys()
    if unknown:
        raise ValueError(f"no columns of the ledger: {sorted(unknown)}")
    return tuple((blank | values)[name] for name in ATTEMPT_COLUMNS)
