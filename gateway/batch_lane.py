"""The batch lane of a gateway: its desk, and its runner with the doors' ways to run an item.

It stands on the scheduler's side, of which a gateway has one, beside the ledger. Its items run
through a pipeline of the same process, and so through the same scheduler as everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from gateway.accounting.accounting import Accounting
from gateway.auth.authenticator import Caller
from gateway.batch.free_tokens import FreeTokens
from gateway.batch.jobs import Form
from gateway.batch.running.execution import Execution
from gateway.batch.running.item_experts import ItemExperts
from gateway.batch.running.parts import RunnerParts
from gateway.batch.running.quoting import Quoter
from gateway.batch.running.runner import BatchRunner, TenantLoad
from gateway.batch.store.desk import BatchDesk
from gateway.config.batch import BatchConfig
from gateway.delivery.deliveries import Deliveries
from gateway.delivery.unread_memory import UnreadLimits
from gateway.delivery.watches import Watches
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.entry.budget_standings import BudgetStandings
from gateway.doors.grpc.batch.execution import MessageExecution
from gateway.doors.http.exchange import Services
from gateway.doors.http.sse import SilentStreams
from gateway.doors.openai.batches.execution import LineExecution
from gateway.doors.openai.dialect import line_handlers
from gateway.fleet.fleet import Fleet
from gateway.pipeline.pipeline import Pipeline
from scheduler.port import SchedulerPort
from scheduler.prefix.item_order import order_items

log = logging.getLogger(__name__)
_NOTHING_UNREAD = UnreadLimits(blocked_write_s=1.0, stream_bytes=0, tenant_bytes=0, total_bytes=0)
"""Items have no connection: nothing of them waits for a client."""


class BatchLane:
    """The lane. `desk` answers from the start; jobs run while `running` is open."""

    def __init__(
        self,
        accounting: Accounting,
        active: ActiveSettings,
        fleet: Fleet,
        clock: Callable[[], float],
    ) -> None:
        """`clock`: monotonic seconds. The lane learns from the experts that engines of the fleet
        tell of finished requests."""
        self._accounting = accounting
        self._active = active
        self._clock = clock
        self.runner: BatchRunner | None = None
        self.experts = ItemExperts()
        fleet.on_signatures = self.experts.observe
        self.desk = BatchDesk(
            accounting.database, self._bounds, now_us=_now_us, on_change=self._notify
        )

    @contextlib.asynccontextmanager
    async def running(
        self,
        pipeline: Pipeline,
        port: SchedulerPort,
        opening: Callable[[], Awaitable[object]] | None = None,
    ) -> AsyncIterator[None]:
        """Runs jobs. Leaving the context leaves what is in flight to the next start. `opening`:
        returns when requests are admitted; None: they are."""
        accounting, executions = self._accounting, self._executions(pipeline, port)
        rates = FreeTokens(accounting.database, port, _now_us)
        self.desk.quotes = Quoter(
            database=accounting.database,
            executions=executions,
            caller_of=self._caller_of,
            bounds=self._bounds,
            free_tokens_per_s=rates.of_model,
            now_us=_now_us,
        ).quote
        self.runner = BatchRunner(
            RunnerParts(
                name=accounting.owner.gateway,
                epoch=accounting.owner.epoch,
                database=accounting.database,
                write=accounting.write,
                accounts_of=accounting.budgets.accounts_of,
                executions=executions,
                caller_of=self._caller_of,
                bounds=self._bounds,
                standard_ttft_s=lambda: self._active.config.slo_classes.standard.ttft_s,
                clock=self._clock,
                now_us=_now_us,
                owns_database=not accounting.shared,
                order=order_items,
                experts=self.experts,
                opening=opening,
            )
        )
        task = asyncio.create_task(self.runner.run(), name="moegate-batch")
        try:
            yield
        finally:
            self.desk.quotes = None
            task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(result, Exception):
                log.error("the batch lane failed", exc_info=result)

    def load(self) -> Sequence[TenantLoad]:
        """Returns what runs here, by tenant."""
        return () if self.runner is None else self.runner.load()

    def begin_drain(self) -> None:
        """Starts no more items."""
        if self.runner is not None:
            self.runner.begin_drain()

    def _executions(self, pipeline: Pipeline, port: SchedulerPort) -> dict[Form, Execution]:
        services = Services(
            active=self._active,
            pipeline=pipeline,
            port=port,
            deliveries=Deliveries(lambda: _NOTHING_UNREAD, self._clock),
            watches=Watches(),
            silences=SilentStreams(lambda: 1.0, self._clock),
            standings=BudgetStandings(port, self._clock),
            clock=self._clock,
            batches=self.desk,
        )
        return {
            Form.OPENAI: LineExecution(services, line_handlers()),
            Form.GRPC: MessageExecution(pipeline),
        }

    def _caller_of(self, key_id: str) -> Caller | None:
        return self._active.authenticator.caller_of(key_id)

    def _bounds(self) -> BatchConfig:
        return self._active.config.batch

    def _notify(self) -> None:
        if self.runner is not None:
            self.runner.notify()


def _now_us() -> int:
    return time.time_ns() // 1000
