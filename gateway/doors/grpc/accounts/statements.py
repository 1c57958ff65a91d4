"""GetStatement: the bill of a window, and whose it is."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.accounting.accounting import Accounting
from gateway.accounting.ledger.caller_reads import TooManyReads
from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.accounting.reports.statement import Line, SharingRule
from gateway.accounting.reports.statement import Statement as Closed
from gateway.accounting.reports.windows import (
    PeriodStatement,
    StatementQuery,
    TooManyLines,
    window_statement,
)
from gateway.accounting.rollups.pool_bills import PoolBill
from gateway.accounting.rollups.spend import Group, WindowTooFine
from gateway.auth.authenticator import Caller
from gateway.config.gateway import KeyRole
from gateway.domain.slices import Steps, in_slices
from gateway.doors.grpc import errors
from gateway.doors.grpc.accounts.windows import GROUPS, TIMES, groups_of, whole_hours_of
from gateway.doors.grpc.ledger_errors import unread
from gateway.doors.grpc.rpc_context import check_texts
from moegate.v1 import usage_pb2

DEFAULT_SPAN_S = 30 * 86_400
MOST_GROUPS = 3
MOST_WEIGHTS = 1000
MILLION = 1_000_000
_RULES = {
    usage_pb2.SHARING_RULE_UNSPECIFIED: SharingRule.NONE,
    usage_pb2.SHARING_RULE_USE: SharingRule.BY_USE,
    usage_pb2.SHARING_RULE_WEIGHT: SharingRule.BY_WEIGHT,
    usage_pb2.SHARING_RULE_ROW: SharingRule.OWN_ROW,
}
_ACCOUNTS = ("waste", "idle", "unavailable", "external", "unobserved")


async def get_statement(
    accounting: Accounting, caller: Caller, request: usage_pb2.GetStatementRequest
) -> usage_pb2.GetStatementResponse:
    """Builds the response. Raises RpcError."""
    query = _query(request)
    own_lines = None
    if caller.role is not KeyRole.OPERATOR:
        if Group.TENANT not in query.groups:
            fault = f"key {caller.key_id} sees the lines of its tenant: group by tenant, too"
            raise errors.invalid([("group_by", fault)])
        own_lines = query.groups.index(Group.TENANT)
    await accounting.pool_accounts.catch_up()
    try:
        await accounting.write_rows()
        found = await accounting.reads.read(caller.tenant, lambda tx: window_statement(tx, query))
    except (LedgerUnavailable, TooManyReads) as error:
        raise unread(error) from error
    except (WindowTooFine, TooManyLines) as error:
        raise errors.invalid([("from", str(error))]) from None
    return await in_slices(_response(found, own_lines, caller.tenant))


def _query(request: usage_pb2.GetStatementRequest) -> StatementQuery:
    from_hour, to_hour = whole_hours_of(request, DEFAULT_SPAN_S)
    groups = groups_of(request.group_by, MOST_GROUPS) or [Group.TENANT]
    for i, group in enumerate(groups):
        if group in TIMES:
            raise errors.invalid([(f"group_by[{i}]", f"{group}: give it as `period`")])
        if group is Group.LABEL:
            text = "label: a bill has lines for all requests, also those without the label"
            raise errors.invalid([(f"group_by[{i}]", text)])
    period = GROUPS.get(request.period)
    if request.period and period not in TIMES:
        raise errors.invalid([("period", "give hour, day, week, month or year")])
    rule = _RULES.get(request.sharing)
    if rule is None:
        raise errors.invalid([("sharing", f"{request.sharing}: no rule")])
    weights = dict(request.weights)
    if len(weights) > MOST_WEIGHTS:
        raise errors.invalid([("weights", f"{len(weights)}: give at most {MOST_WEIGHTS}")])
    check_texts({f"weights[{i}]": name for i, name in enumerate(weights)})
    if rule is SharingRule.BY_WEIGHT and (not any(weights.values()) or len(groups) > 1):
        raise errors.invalid([("weights", "give one group, and weights of its values")])
    return StatementQuery(
        from_hour=from_hour,
        to_hour=to_hour,
        groups=groups,
        period=period,
        rule=rule,
        weights=weights,
    )


def _response(
    found: Sequence[PeriodStatement], own_lines: int | None, tenant: str
) -> Steps[usage_pb2.GetStatementResponse]:
    """`own_lines`: the column in which only lines of the tenant have its name, and nothing but
    lines is shown; None: everything is."""
    response = usage_pb2.GetStatementResponse()
    for part in found:
        message = response.statements.add(period=part.period)
        if own_lines is None:
            _put_sums(message, part)
        yield
        for line in part.statement.lines:
            if own_lines is None or line.group[own_lines] == tenant:
                message.lines.append(_line(line))
            yield
    return response


def _line(line: Line) -> usage_pb2.StatementLine:
    return usage_pb2.StatementLine(
        group=line.group,
        own_nano_usd=line.own_nano_usd,
        remote_nano_usd=line.remote_nano_usd,
        shared_nano_usd=line.shared_nano_usd,
        charged_nano_usd=line.charged_nano_usd,
    )


def _put_sums(message: usage_pb2.Statement, part: PeriodStatement) -> None:
    closed: Closed = part.statement
    sums = usage_pb2.Statement(
        gpu_bill_nano_usd=closed.gpu_bill_nano_usd,
        remote_bill_nano_usd=closed.remote_bill_nano_usd,
        idle_nano_usd=closed.idle_nano_usd,
        unavailable_nano_usd=closed.unavailable_nano_usd,
        external_nano_usd=closed.external_nano_usd,
        unobserved_nano_usd=closed.unobserved_nano_usd,
        unsettled_nano_usd=closed.unsettled_nano_usd,
        unshared_nano_usd=closed.unshared_nano_usd,
        wasted_nano_usd=closed.wasted_nano_usd,
        pools=[_pool(bill) for bill in part.bills],
        overflow=[
            usage_pb2.ModelOverflow(
                model=model.model,
                requests=model.requests,
                tokens=model.tokens,
                remote_nano_usd=model.remote_nano_usd,
                own_nano_usd=model.own_nano_usd,
            )
            for model in part.overflow
        ],
    )
    message.MergeFrom(sums)
    message.unpriced.FromNanoseconds(closed.unpriced_ns)


def _pool(bill: PoolBill) -> usage_pb2.PoolBill:
    amounts = bill.amounts
    accounts = {"requests": bill.requests_nano_usd}
    accounts |= {name: amounts[f"{name}_nano_usd"] for name in _ACCOUNTS}
    message = usage_pb2.PoolBill(
        pool=bill.pool,
        bill_nano_usd=bill.bill_nano_usd,
        accounts=[
            usage_pb2.PoolAccount(name=name, nano_usd=amount) for name, amount in accounts.items()
        ],
        uncached_input_tokens=amounts["uncached_tokens"],
        cached_input_tokens=amounts["cached_tokens"],
        output_tokens=amounts["output_tokens"],
        rates=[
            usage_pb2.PoolRate(token_kind=kind, allocated_nano_usd_per_mtok=rate)
            for kind, rate in bill.allocated_nano_usd_per_mtok().items()
        ],
    )
    if amounts["paid_ns"]:
        message.utilisation = amounts["busy_ns"] / amounts["paid_ns"]
    return message
