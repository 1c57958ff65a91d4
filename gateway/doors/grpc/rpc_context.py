"""What every servicer does around its work: who calls, and how an error becomes a status."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc

from gateway.accounting.prices.catalog import Prices
from gateway.auth.authenticator import Authenticator, Caller, Unauthenticated
from gateway.config.gateway import GatewayConfig, KeyRole
from gateway.doors.grpc import errors

log = logging.getLogger(__name__)


class ActiveSettings(Protocol):
    """What the services read of the configuration in force."""

    @property
    def authenticator(self) -> Authenticator:
        """Who may call."""

    @property
    def config(self) -> GatewayConfig:
        """The configuration."""

    @property
    def prices(self) -> Prices:
        """The price catalogs."""


# The types of one call; the context is generic in its messages, which matter to nobody here.
Context = grpc.aio.ServicerContext[Any, Any]


Metadata = tuple[tuple[str, str | bytes], ...]


def metadata_of(context: Context) -> Metadata:
    """What the client sent with the call; gRPC makes it anew each time that it is asked."""
    return tuple(context.invocation_metadata() or ())


def caller_of(active: ActiveSettings, metadata: Metadata) -> Caller:
    """Who calls, by the key in the metadata. Raises RpcError (UNAUTHENTICATED)."""
    try:
        return active.authenticator.authenticate(metadata)
    except Unauthenticated as error:
        raise errors.unauthenticated(str(error)) from None


def require(caller: Caller, roles: Collection[KeyRole], what: str) -> None:
    """Raises RpcError (PERMISSION_DENIED) unless the caller's key has one of the roles."""
    if caller.role not in roles:
        needed = " or ".join(role.value for role in KeyRole if role in roles)
        raise errors.denied(
            f"key {caller.key_id} has the role {caller.role.value}: {what} needs {needed}"
        )


@asynccontextmanager
async def rpc_errors(context: Context) -> AsyncIterator[None]:
    """Turns errors into statuses: those meant for the client, and one word for all others."""
    try:
        yield
    except errors.RpcError as error:
        await errors.abort(context, error)
    except Exception:
        if context.code():  # aborted already
            raise
        log.exception("an RPC failed inside the gateway")
        message = "the gateway failed: its log says why"
        await errors.abort(context, errors.RpcError(grpc.StatusCode.INTERNAL, message))
