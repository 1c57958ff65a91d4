"""GetOutlook: the month so far, the one before, and what is to be expected."""

from __future__ import annotations

import time

from gateway.accounting.accounting import Accounting
from gateway.accounting.ledger.caller_reads import TooManyReads
from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.reports.outlook import BudgetOutlook, read_outlook
from gateway.accounting.rollups.spend import WindowTooFine
from gateway.doors.grpc import errors
from gateway.doors.grpc.accounts.usage_messages import spend_row
from gateway.doors.grpc.ledger_errors import unread
from moegate.v1 import usage_pb2


async def get_outlook(
    accounting: Accounting, tenant: str, selection: Selection
) -> usage_pb2.GetOutlookResponse:
    """Builds the response. `selection`: what the caller asks for and may see; `tenant`: the
    caller's. Raises RpcError."""
    now_s = time.time()
    budgets = [
        budget
        for budget in accounting.budgets.book.applied.budgets
        if selection.tenant in ("", budget.tenant)
        and (not selection.key_id or budget.key_id in ("", selection.key_id))
    ]
    try:
        await accounting.write_rows()
        found = await accounting.reads.read(
            tenant, lambda tx: read_outlook(tx, selection, budgets, now_s)
        )
    except (LedgerUnavailable, TooManyReads) as error:
        raise unread(error) from error
    except WindowTooFine as error:
        raise errors.invalid([("tenant", str(error))]) from None
    message = usage_pb2.GetOutlookResponse(
        month_to_date=spend_row(found.month_to_date),
        last_month_to_date=spend_row(found.last_month_to_date),
        last_month=spend_row(found.last_month),
        forecast_charged_nano_usd=found.forecast_charged_nano_usd,
        forecast_metered_nano_usd=found.forecast_metered_nano_usd,
        budgets=[_budget(budget) for budget in found.budgets],
    )
    message.at.FromNanoseconds(round(now_s * 1e9))
    return message


def _budget(outlook: BudgetOutlook) -> usage_pb2.BudgetOutlook:
    budget = outlook.budget
    message = usage_pb2.BudgetOutlook(
        tenant=budget.tenant,
        key_id=budget.key_id,
        period=budget.period.value,
        cap_nano_usd=budget.cap_nano_usd,
        spent_nano_usd=outlook.spent_nano_usd,
        hard=budget.hard,
        forecast_nano_usd=outlook.forecast_nano_usd,
    )
    message.ends_at.FromSeconds(outlook.ends_unix_s)
    if outlook.reached_unix_s is not None:
        message.reached_at.FromNanoseconds(round(outlook.reached_unix_s * 1e9))
    return message
