"""What the runner works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from gateway.accounting.ledger.corrections import AccountsOf
from gateway.accounting.ledger.database import Database
from gateway.auth.authenticator import Caller
from gateway.batch.jobs import Form
from gateway.batch.running.execution import Execution
from gateway.batch.running.item_experts import ItemExperts
from gateway.batch.running.ordering import Order
from gateway.batch.running.recorder import Write
from gateway.config.batch import BatchConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerParts:
    """What the runner works with.

    Attributes:
        name: that of the gateway, which no other process has at the same time.
        epoch: of this process, in its rows of the ledger.
        write: runs a transaction after the rows of the ledger that were recorded before.
        accounts_of: budget accounts, for corrections.
        executions: of each form of items.
        caller_of: the caller of a key by its id; None: there is no such key any more.
        bounds: those in force.
        standard_ttft_s: promised time to first token of the class in which late items run.
        clock: monotonic seconds.
        now_us: Unix microseconds.
        owns_database: no other gateway can use the database.
        order: the order in which items are started.
        experts: those that items were routed to.
        opening: returns when the scheduler admits requests; None: it does.
    """

    name: str
    epoch: str
    database: Database
    write: Write
    accounts_of: AccountsOf
    executions: Mapping[Form, Execution]
    caller_of: Callable[[str], Caller | None]
    bounds: Callable[[], BatchConfig]
    standard_ttft_s: Callable[[], float]
    clock: Callable[[], float]
    now_us: Callable[[], int]
    owns_database: bool
    order: Order
    experts: ItemExperts
    opening: Callable[[], Awaitable[object]] | None = None
