"""Statuses of a ledger that does not answer, or that a tenant asks too much of."""

from __future__ import annotations

from gateway.accounting.ledger.caller_reads import TooManyReads
from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.doors.grpc import errors

RETRY_S = 2.0


def unavailable(error: LedgerUnavailable) -> errors.RpcError:
    """UNAVAILABLE: the ledger's database does not respond."""
    return errors.unavailable(f"the ledger does not answer: {error}", "LEDGER", RETRY_S)


def unread(error: LedgerUnavailable | TooManyReads) -> errors.RpcError:
    """UNAVAILABLE as above; RESOURCE_EXHAUSTED: the tenant has too many reads of the ledger."""
    if isinstance(error, TooManyReads):
        return errors.exhausted(str(error), "LEDGER_READS", RETRY_S)
    return unavailable(error)
