"""Rows of the ledger: from a settled attempt, or from what the ledger itself has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.accounting.ledger_schema import ATTEMPT_COLUMNS, RowState
from gateway.accounting.settlement import SettledAttempt
from scheduler.budget import Account
from scheduler.budget_book import Settled

INSERT = (
    f"INSERT INTO attempt ({', '.join(ATTEMPT_COLUMNS)}) "
    f"VALUES ({', '.join(f'${i + 1}' for i in range(len(ATTEMPT_COLUMNS)))})"
)
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Entry:
    """An attempt that waits to be written. `budget`: how it counts; None: no budget applied."""

    settled: SettledAttempt
    budget: Settled | None

    @property
    def lease_id(self) -> str:
        """Lease that it spent from; "": none."""
        return "" if self.budget is None or self.budget.lease_id is None else self.budget.lease_id

    @property
    def budgeted_nano_usd(self) -> int:
        """What it counts with in budgets."""
        if self.budget is not None:
            return self.budget.budgeted_nano_usd
        return self.settled.charged_nano_usd or 0

    @property
    def others(self) -> tuple[Account, ...]:
        """Accounts that its lease knows nothing of."""
        return () if self.budget is None else self.budget.others


def state(settled: SettledAttempt) -> RowState:
    """What kind of row an attempt makes."""
    if settled.charged_nano_usd is None:
        return RowState.UNPRICED
    if settled.usage is not None and settled.usage.estimated:
        return RowState.ESTIMATED
    return RowState.FINAL


def attempt_row(entry: Entry, epoch: str, seq: int) -> tuple[Any, ...]:
    """Values of `ATTEMPT_COLUMNS`."""
    settled = entry.settled
    usage = settled.usage
    parts = [(part.kind.value, part.tokens, part.nano_usd) for part in settled.parts]
    return (
        epoch,
        seq,
        state(settled).value,
        # The scheduler's ids begin with the key, so that two keys may choose the same one.
        settled.request_id.removeprefix(f"{settled.key_id}/"),
        settled.attempt,
        settled.key_id,
        settled.tenant,
        settled.session_id,
        settled.model,
        settled.slo_class.value,
        settled.placement,
        settled.pool,
        settled.kind.value,
        settled.outcome.value,
        round(settled.started_unix_s * 1e6),
        round(settled.ended_unix_s * 1e6),
        None if usage is None else usage.prompt_tokens,
        None if usage is None else usage.cached_tokens,
        None if usage is None else usage.cache_write_tokens + usage.long_cache_write_tokens,
        None if usage is None else usage.completion_tokens,
        None if usage is None else usage.reasoning_tokens,
        settled.metered_nano_usd,
        settled.charged_nano_usd,
        entry.budgeted_nano_usd,
        "" if settled.basis is None else settled.basis.value,
        settled.price_row_id,
        _encoder.encode(parts).decode() if parts else "",
        settled.cheapest_remote_nano_usd,
        int(settled.final),
        entry.lease_id,
        "",
    )


def bare_row(**values: object) -> tuple[Any, ...]:
    """A row that is no attempt; what is not given is empty, 0 or unknown."""
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
