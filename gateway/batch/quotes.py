"""What a job would cost and when it would have ended, before it is handed in."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.batch.jobs import LineFault
from scheduler.contract import PlacementKind
from scheduler.decision_record import DecisionRecord


class ItemRefused(Exception):
    """An item could not run as it is; the text says why."""


class ItemQuote(msgspec.Struct, frozen=True, kw_only=True):
    """One item. `output_tokens`: expected by the scheduler. Nano-USD: `own_nano_usd` at self-hosted
    servers, None: there are none, or without a price; `remotes`: of each remote with a price."""

    prompt_tokens: int
    output_tokens: float
    own_nano_usd: int | None
    remotes: Mapping[str, int]


class BatchQuote(msgspec.Struct, frozen=True, kw_only=True):
    """A whole job.

    Attributes:
        items, bad_lines: as the job would have them; `faults`: the first of the bad lines.
        sampled: items that were quoted one by one; the sums are theirs, scaled to all items.
        refused: of these, items that could not run; `refusal`: why the first one could not.
        own_nano_usd: at self-hosted servers; None: unknown. `remotes`: of each remote that could
            take all models and has a price.
        ahead: items of other jobs that have not ended, of the same models.
        end_unix_us: when it would have ended if all that is ahead runs first; None: unknown.
    """

    items: int
    bad_lines: int
    faults: tuple[LineFault, ...]
    sampled: int
    refused: int
    refusal: str
    prompt_tokens: int
    output_tokens: int
    own_nano_usd: int | None
    remotes: dict[str, int]
    ahead: int
    end_unix_us: int | None


def item_quote(decision: DecisionRecord) -> ItemQuote:
    """The figures of a decision."""
    own: list[int] = []
    remotes: dict[str, int] = {}
    for each in decision.candidates():
        if each.charged_nano_usd is None:
            continue
        if each.kind is PlacementKind.REMOTE:
            remotes[each.placement] = each.charged_nano_usd
        else:
            own.append(each.charged_nano_usd)
    return ItemQuote(
        prompt_tokens=decision.prompt_tokens,
        output_tokens=decision.output_tokens,
        own_nano_usd=min(own, default=None),
        remotes=remotes,
    )
