"""The demo's prices, as a catalog that the gateway reads."""

from __future__ import annotations

import datetime

import msgspec

from gateway.config.price_rows import CatalogFile, RemoteRow, ShowbackRow, TokenPrices
from moegate.demo.cost_comparison import RemotePrice

PROVIDER = "demo"
SHOWBACK = TokenPrices(input="0.20", cached_input="0.02", output="3.20")
"""Charge of self-hosted tokens, $ per million: above the cost of a full replica, below the remote's
price."""


def catalog(pool: str, model: str, remote: RemotePrice) -> bytes:
    """A price catalog in YAML: prices of the remote, and charges of the pool."""
    today = datetime.datetime.now(datetime.UTC).date()
    since = (today - datetime.timedelta(days=1)).isoformat()
    source = "the demo's own assumption"
    rows = CatalogFile(
        remote_tokens=(
            RemoteRow(
                id="demo-remote",
                provider=PROVIDER,
                model=model,
                usd_per_mtok=TokenPrices(
                    input=str(remote.input),
                    cached_input=str(remote.cached_input),
                    output=str(remote.output),
                ),
                valid_from=since,
                checked_at=since,
                source=source,
            ),
        ),
        showback=(
            ShowbackRow(
                id="demo-own",
                pool=pool,
                usd_per_mtok=SHOWBACK,
                valid_from=since,
                checked_at=since,
                source=source,
            ),
        ),
    )
    return msgspec.yaml.encode(rows)
