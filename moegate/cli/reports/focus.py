"""`moegate usage focus FILE`: costs in the columns of FOCUS 1.4, for tools that read cloud bills.

Each row is a day's cost of one tenant, key, model and placement. What no request used is a row of
its own for each pool and account (idle, unavailable and others), so that the file sums to the bill.
BilledCost is what it cost, metered; what the tenant was charged is in x_ChargedCost. The columns
are those of https://focus.finops.org (announced June 2026); names with x_ are moegate's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from gateway.config.money import NANO_USD
from moegate.cli.channel import add_channel_arguments, call_method, open_channel
from moegate.cli.command_runner import CommandFailed, run_command
from moegate.cli.groups import group_value
from moegate.cli.reports.files import ENDINGS, write_rows
from moegate.cli.spans import add_window_arguments
from moegate.cli.views.usage_export import NoPyarrow
from moegate.v1 import usage_pb2, usage_pb2_grpc

TIMEOUT_S = 60.0
DEFAULT_DAYS = 30
GROUPS = ("tenant", "key", "model", "placement", "kind")
MOST_ROWS = 10_000
COLUMNS = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency"),
    *("BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass"),
    *("ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart"),
    *("ConsumedQuantity", "ConsumedUnit", "ContractedCost", "EffectiveCost", "HostProviderName"),
    *("InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ResourceId"),
    *("ResourceName", "ResourceType", "ServiceCategory", "ServiceName", "ServiceProviderName"),
    *("ServiceSubcategory", "SubAccountId", "SubAccountName", "Tags", "x_ChargedCost"),
    *("x_Requests", "x_UncachedInputTokens", "x_CachedInputTokens", "x_OutputTokens"),
    *("x_WastedCost", "x_UnknownCostAttempts"),
)
SELF_HOSTED = "self-hosted"
ACCOUNTS = ("idle", "unavailable", "external", "unobserved", "unsettled")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.add_argument("file", type=Path, help=f"its ending says how: {', '.join(ENDINGS)}")
    parser.add_argument(
        "--account", default="moegate", help="BillingAccountId of the rows (%(default)s)"
    )
    add_channel_arguments(parser)
    add_window_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the file."""
    return run_command(_focus(args))


async def _focus(args: argparse.Namespace) -> None:
    if args.file.suffix not in ENDINGS:
        raise CommandFailed(f"{args.file}: end its name in {', '.join(ENDINGS)}")
    found: list[list[Any]] = []
    async with open_channel(args) as channel:
        stub = usage_pb2_grpc.UsageServiceStub(channel)
        for day in days(args):
            spend = usage_pb2.GetSpendRequest(
                group_by=[group_value(name) for name in GROUPS], limit=MOST_ROWS
            )
            bill = usage_pb2.GetStatementRequest(
                group_by=[group_value(name) for name in ("tenant", "pool")]
            )
            for request in (spend, bill):
                getattr(request, "from").FromDatetime(day)
                request.to.FromDatetime(day + timedelta(days=1))
            used = await call_method(args, stub.GetSpend, spend, TIMEOUT_S)
            if used.truncated:
                raise CommandFailed(f"{day:%Y-%m-%d} has more than {MOST_ROWS:,} rows")
            billed = await call_method(args, stub.GetStatement, bill, TIMEOUT_S)
            found += rows(day, args.account, used, billed)
    try:
        await asyncio.to_thread(write_rows, args.file, COLUMNS, found)
    except (NoPyarrow, OSError) as error:
        raise CommandFailed(str(error)) from error
    print(f"{len(found)} rows in {args.file}")


def days(args: argparse.Namespace) -> Iterator[datetime]:
    """Every day of the window, in UTC; a day that is touched is whole."""
    since_s, until_s = args.within or (args.since, args.until)
    end = datetime.fromtimestamp(until_s or time.time(), UTC)
    begin = end - timedelta(days=DEFAULT_DAYS)
    if since_s is not None:
        begin = datetime.fromtimestamp(since_s, UTC)
    day = begin.replace(hour=0, minute=0, second=0, microsecond=0)
    while day < end:
        yield day
        day += timedelta(days=1)


def rows(
    day: datetime,
    account: str,
    used: usage_pb2.GetSpendResponse,
    billed: usage_pb2.GetStatementResponse,
) -> list[list[Any]]:
    """Rows of `COLUMNS` of one day: what requests used, and what nobody did."""
    found = [_of_spend(day, account, row) for row in used.rows if _says_something(row)]
    for statement in billed.statements:
        own: dict[str, int] = defaultdict(int)
        for line in statement.lines:
            own[line.group[1]] += line.own_nano_usd
        bills = {pool.pool: pool for pool in statement.pools}
        for name in sorted(bills.keys() | {pool for pool, amount in own.items() if amount}):
            pool = bills.get(name, usage_pb2.PoolBill(pool=name))
            amounts = {part.name: part.nano_usd for part in pool.accounts}
            parts = {part: amounts[part] for part in ACCOUNTS if part in amounts}
            # Negative where requests were billed in a time of which there are no accounts.
            parts["unsettled"] = pool.bill_nano_usd - own[name] - sum(parts.values())
            found += [
                _of_account(day, account, name, part, amount)
                for part, amount in parts.items()
                if amount
            ]
    return found


def _says_something(row: usage_pb2.SpendRow) -> bool:
    return bool(row.attempts or row.metered_nano_usd or row.charged_nano_usd)


def _of_spend(day: datetime, account: str, row: usage_pb2.SpendRow) -> list[Any]:
    tenant, key, model, placement, kind = row.group
    provider = SELF_HOSTED if kind != "remote" else placement
    tokens = row.uncached_input_tokens + row.cached_input_tokens + row.output_tokens
    only_corrects = not row.attempts
    values = _shared(day, account, row.metered_nano_usd) | {
        "ChargeCategory": "Usage",
        "ChargeClass": "Correction" if only_corrects else None,
        "ChargeDescription": f"{model or 'no model'} for key {key or 'none'} of {tenant}",
        "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": tokens,
        "ConsumedUnit": "Tokens",
        "HostProviderName": provider,
        "InvoiceIssuerName": provider,
        "PricingQuantity": tokens,
        "PricingUnit": "Tokens",
        "ResourceId": placement or None,
        "ResourceName": placement or None,
        "ResourceType": "Model server" if kind != "remote" else "Model API",
        "ServiceName": model or "moegate",
        "ServiceProviderName": provider,
        "SubAccountId": tenant,
        "SubAccountName": tenant,
        "Tags": json.dumps({"moegate/key": key, "moegate/model": model}),
        "x_ChargedCost": _dollars(row.charged_nano_usd),
        "x_Requests": row.requests,
        "x_UncachedInputTokens": row.uncached_input_tokens,
        "x_CachedInputTokens": row.cached_input_tokens,
        "x_OutputTokens": row.output_tokens,
        "x_WastedCost": _dollars(row.wasted_nano_usd),
        "x_UnknownCostAttempts": row.attempts - row.metered_attempts,
    }
    return [values.get(name) for name in COLUMNS]


def _of_account(day: datetime, account: str, pool: str, name: str, nano_usd: int) -> list[Any]:
    values = _shared(day, account, nano_usd) | {
        # Not usage: the GPUs are paid by the hour, whoever uses them.
        "ChargeCategory": "Purchase",
        "ChargeDescription": f"GPUs of pool {pool}: {name}",
        "ChargeFrequency": "Recurring",
        "HostProviderName": SELF_HOSTED,
        "InvoiceIssuerName": SELF_HOSTED,
        "PricingQuantity": 1,
        "PricingUnit": "Days",
        "ResourceId": pool,
        "ResourceName": pool,
        "ResourceType": "Pool",
        "ServiceName": pool,
        "ServiceProviderName": SELF_HOSTED,
        "Tags": json.dumps({"moegate/account": name}),
    }
    return [values.get(column) for column in COLUMNS]


def _shared(day: datetime, account: str, nano_usd: int) -> dict[str, Any]:
    month = day.replace(day=1)
    cost = _dollars(nano_usd)
    return {
        "BilledCost": cost,
        "EffectiveCost": cost,
        "ListCost": cost,
        "ContractedCost": cost,
        "BillingAccountId": account,
        "BillingAccountName": account,
        "BillingCurrency": "USD",
        "BillingPeriodStart": _iso(month),
        "BillingPeriodEnd": _iso((month + timedelta(days=32)).replace(day=1)),
        "ChargePeriodStart": _iso(day),
        "ChargePeriodEnd": _iso(day + timedelta(days=1)),
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
    }


def _iso(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _dollars(nano_usd: int) -> Decimal:
    return Decimal(nano_usd) / NANO_USD
