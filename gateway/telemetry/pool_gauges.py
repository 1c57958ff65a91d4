"""Names of the gauges of pools, and of their labels. `semconv` has them all."""

from __future__ import annotations

from gateway.telemetry.metric import gauge

POOL = "moegate.pool"
REQUEST_MODEL = "gen_ai.request.model"

SATURATION = gauge(
    "moegate.pool.saturation",
    "1",
    (POOL, REQUEST_MODEL),
    "Predicted wait of a new request, and past wait of waiting ones by their work, over the "
    "promised time to first token.",
)
PREDICTED_WAIT = gauge(
    "moegate.pool.predicted_wait",
    "1",
    (POOL, REQUEST_MODEL),
    "Predicted wait of a new request over the promised time to first token.",
)
TURNED_AWAY = gauge(
    "moegate.pool.turned_away",
    "1",
    (POOL, REQUEST_MODEL),
    "Share of the arrivals of the last minute that own servers did not take in time: they started "
    "late, went to a remote for that, or were refused; the batch class is left out.",
)
OVERFLOWING = gauge(
    "moegate.pool.overflowing",
    "1",
    (POOL, REQUEST_MODEL),
    "1: in the last minute a request went to a remote because own servers were full.",
)
GROUPS = gauge("moegate.pool.groups", "{group}", (POOL, REQUEST_MODEL), "Groups configured.")
GROUPS_SERVING = gauge(
    "moegate.pool.groups.serving", "{group}", (POOL, REQUEST_MODEL), "Groups in service."
)
RELEASABLE = gauge(
    "moegate.pool.groups.releasable",
    "{group}",
    (POOL, REQUEST_MODEL),
    "Groups that may go.",
)
POOL_GAUGES = (
    *(SATURATION, PREDICTED_WAIT, TURNED_AWAY, OVERFLOWING),
    *(GROUPS, GROUPS_SERVING, RELEASABLE),
)
