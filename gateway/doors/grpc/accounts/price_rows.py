"""ListPriceRows: the rows of the price catalogs, what they price, and what should be checked."""

from __future__ import annotations

import time

from google.protobuf.timestamp_pb2 import Timestamp

from gateway.accounting.prices.catalog import Prices
from gateway.accounting.prices.listing import ListedRow, listed_rows, unknown_prices
from gateway.accounting.prices.row_time import unix_s
from gateway.config.gateway import GatewayConfig
from gateway.config.money import nano_usd
from gateway.config.price_rows import GpuHourRow, RemoteRow, ShowbackRow
from gateway.doors.grpc import errors
from gateway.doors.grpc.times import microseconds_of
from moegate.v1 import usage_pb2
from scheduler.pricing import RateTier


def list_price_rows(
    prices: Prices, config: GatewayConfig, request: usage_pb2.ListPriceRowsRequest
) -> usage_pb2.ListPriceRowsResponse:
    """Builds the response. Raises RpcError (INVALID_ARGUMENT)."""
    at_s = time.time()
    if request.HasField("at"):
        try:
            at_s = microseconds_of(request.at) / 1e6
        except ValueError as error:
            raise errors.invalid([("at", str(error))]) from None
    found = listed_rows(prices, config, at_s, every_row=request.every_row)
    return usage_pb2.ListPriceRowsResponse(
        rows=[*_stated(config), *map(_message, found)],
        warnings=unknown_prices(prices, config, at_s),
    )


def _stated(config: GatewayConfig) -> list[usage_pb2.PriceRow]:
    """Prices that the configuration states at a pool; they precede the catalogs."""
    return [
        usage_pb2.PriceRow(
            subject=usage_pb2.PRICE_SUBJECT_GPU_HOUR,
            pool=pool.name,
            gpu=pool.gpu.type,
            holds=True,
            source=f"the configuration: pools[{i}].gpu.usd_per_gpu_hour",
            nano_usd_per_gpu_hour=nano_usd(stated),
            used_by=[pool.name],
        )
        for i, pool in enumerate(config.pools)
        if (stated := pool.gpu.usd_per_gpu_hour) is not None
    ]


def _message(listed: ListedRow) -> usage_pb2.PriceRow:
    row = listed.row
    message = usage_pb2.PriceRow(
        id=row.id,
        valid_from=_instant(row.valid_from),
        valid_to=None if row.valid_to is None else _instant(row.valid_to),
        holds=listed.holds,
        source=row.source,
        checked_at=row.checked_at,
        tiers=map(_tier, listed.tiers),
        window=listed.window,
        used_by=listed.used_by,
        warnings=listed.warnings,
    )
    match row:
        case GpuHourRow():
            message.subject = usage_pb2.PRICE_SUBJECT_GPU_HOUR
            message.pool, message.gpu = row.pool or "", row.gpu
            message.nano_usd_per_gpu_hour = nano_usd(row.usd_per_gpu_hour)
        case RemoteRow():
            message.subject = usage_pb2.PRICE_SUBJECT_REMOTE_TOKENS
            message.provider, message.model = row.provider, row.model
        case ShowbackRow():
            message.subject = usage_pb2.PRICE_SUBJECT_SHOWBACK
            message.pool, message.adapter = row.pool, row.adapter or ""
    return message


def _tier(tier: RateTier) -> usage_pb2.PriceTier:
    return usage_pb2.PriceTier(
        context_over_tokens=tier.context_over_tokens,
        uncached_input_nano_usd_per_mtok=tier.uncached_input,
        cached_input_nano_usd_per_mtok=tier.cached_input,
        cache_write_nano_usd_per_mtok=tier.cache_write,
        output_nano_usd_per_mtok=tier.output,
    )


def _instant(text: str) -> Timestamp:
    return Timestamp(seconds=unix_s(text))
