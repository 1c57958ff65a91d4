"""The services that need the ledger: usage and administration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc

from gateway.access.store import AccessStore
from gateway.accounting.accounting import Accounting
from gateway.delivery.watches import Watches
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.grpc.accounts.admin_service import AdminService
from gateway.doors.grpc.accounts.usage_service import UsageService
from moegate.v1 import admin_pb2_grpc, usage_pb2_grpc
from scheduler.port import SchedulerPort


def add_account_services(
    server: grpc.aio.Server,
    active: ActiveSettings,
    port: SchedulerPort,
    accounting: Accounting,
    access: AccessStore,
    watches: Watches,
    reload: Callable[[], Awaitable[list[str]]],
) -> None:
    """Adds both services to a server. `reload`: see `AdminService`."""
    usage = UsageService(active, port, accounting, watches)
    admin = AdminService(active, port, accounting, access, reload)
    usage_pb2_grpc.add_UsageServiceServicer_to_server(usage, server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
