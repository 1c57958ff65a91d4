"""Columns of the roll-ups of the ledger: what they sum, and by which dimensions.

Table `spend` sums the attempts of an hour, a day and a calendar month (UTC) by tenant, key, model
and placement. Table `tagged_spend` sums those of a day and a month by a tag, of which there may be
very many values: session, end user or label. Sums are only ever added to (`fold.py`), so that a
late row or a correction changes the periods that it ended in.
"""

from __future__ import annotations

import enum
import re

from gateway.accounting.ledger.database import Dialect


class Span(enum.IntEnum):
    """Length of a summed period. The value is stored."""

    HOUR = 0
    DAY = 1
    MONTH = 2
    TENANT_HOUR = 3
    """An hour of a tenant: its other dimensions are empty. Reports by the hour over years read far
    fewer rows of these."""


DIMENSIONS = ("tenant", "key_id", "model", "placement", "pool", "kind")
"""Of table `spend`."""
TAG_DIMENSIONS = ("value", "tenant", "key_id", "model")
"""Of table `tagged_spend`, for each tag."""
SESSION_TAG, END_USER_TAG = "session", "end_user"
LABEL_TAG = "label:"
"""Begins the tag of a label; its key follows."""
LABELS = {
    Dialect.SQLITE: "json_each(NULLIF(attempt.labels, '')) AS label",
    Dialect.POSTGRES: "json_each_text(NULLIF(attempt.labels, '')::json) AS label",
}
"""The labels of a row of `attempt` as rows with `key` and `value`."""
_LABEL = {
    Dialect.SQLITE: "json_extract(NULLIF(labels, ''), '$.\"{key}\"')",
    Dialect.POSTGRES: "(NULLIF(labels, '')::json ->> '{key}')",
}
_LABEL_KEY = re.compile(r"[a-z0-9_.-]{1,64}\Z")


def label_value(dialect: Dialect, key: str) -> str:
    """SQL of a label's value in a row of `attempt`; NULL where it has none. Raises ValueError for a
    key that no label can have."""
    if _LABEL_KEY.match(key) is None:
        raise ValueError(f"{key[:40]!r} is no key of a label")
    return _LABEL[dialect].format(key=key)


_PART = {
    Dialect.SQLITE: (
        "(SELECT SUM(json_extract(part.value, '$[2]')) FROM json_each(NULLIF(parts, '')) AS part"
        " WHERE json_extract(part.value, '$[0]') = '{kind}')"
    ),
    Dialect.POSTGRES: (
        "(SELECT SUM((part->>2)::bigint) FROM json_array_elements(NULLIF(parts, '')::json) AS part"
        " WHERE part->>0 = '{kind}')"
    ),
}
_PARTS = ("uncached_input_nano_usd", "cached_input_nano_usd", "output_nano_usd")
"""Parts of the metered cost by kind of token."""
_SUMS = {
    "requests": "CASE WHEN attempt = 1 THEN 1 ELSE 0 END",
    "attempts": "CASE WHEN attempt > 0 THEN 1 ELSE 0 END",
    "uncached_input_tokens": "prompt_tokens - COALESCE(cached_tokens, 0)",
    "cached_input_tokens": "cached_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "output_tokens": "completion_tokens",
    "own_nano_usd": "CASE WHEN kind = 'local' THEN metered_nano_usd END",
    "remote_nano_usd": "CASE WHEN kind = 'remote' THEN metered_nano_usd END",
    # As `settlement.is_useful`: what failed without output for the client is charged nothing.
    "wasted_nano_usd": (
        "CASE WHEN charged_nano_usd = 0 AND outcome NOT IN ('ok', 'cancelled')"
        " THEN metered_nano_usd END"
    ),
    "metered_attempts": "CASE WHEN attempt > 0 AND metered_nano_usd IS NOT NULL THEN 1 ELSE 0 END",
    **dict.fromkeys(_PARTS, ""),  # by database
    "charged_nano_usd": "charged_nano_usd",
    "unpriced_attempts": "CASE WHEN state = 'unpriced' THEN 1 ELSE 0 END",
    "estimated_attempts": "CASE WHEN state = 'estimated' THEN 1 ELSE 0 END",
    "corrected_nano_usd": "CASE WHEN state = 'correction' THEN charged_nano_usd ELSE 0 END",
    "recovered_nano_usd": "CASE WHEN state = 'lease_recovery' THEN charged_nano_usd ELSE 0 END",
    "cheapest_remote_nano_usd": "cheapest_remote_nano_usd",
    "cheapest_remote_attempts": "CASE WHEN cheapest_remote_nano_usd IS NULL THEN 0 ELSE 1 END",
}
SUMS = tuple(_SUMS)
"""Summed columns, of both tables."""


def of_rows(dialect: Dialect) -> dict[str, str]:
    """For each of `SUMS`, its SQL over a row of `attempt`."""
    parts = {name: _PART[dialect].format(kind=name.removesuffix("_nano_usd")) for name in _PARTS}
    return _SUMS | parts
