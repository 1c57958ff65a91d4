"""Authentication, authorisation and error mapping shared by all servicers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message

from gateway.accounting.prices.catalog import Prices
from gateway.auth.authenticator import Authenticator, Caller, Unauthenticated
from gateway.config.gateway import GatewayConfig, KeyRole
from gateway.delivery.unread import UnreadOutput, write_within
from gateway.delivery.watches import ShuttingDown
from gateway.doors.grpc import errors

log = logging.getLogger(__name__)


class ActiveSettings(Protocol):
    """The parts of the active configuration that the servicers read."""

    @property
    def authenticator(self) -> Authenticator:
        """Authenticates callers by key."""

    @property
    def config(self) -> GatewayConfig:
        """The configuration."""

    @property
    def prices(self) -> Prices:
        """The price catalogs."""


# The context type of one RPC. Its message type parameters are irrelevant here.
Context = grpc.aio.ServicerContext[Any, Any]


Metadata = tuple[tuple[str, str | bytes], ...]


def metadata_of(context: Context) -> Metadata:
    """Returns the client's metadata as a tuple. gRPC builds a new object on every call, so callers
    keep the result."""
    return tuple(context.invocation_metadata() or ())


def caller_of(active: ActiveSettings, metadata: Metadata) -> Caller:
    """Authenticates the caller by the key in the metadata. Raises RpcError (UNAUTHENTICATED)."""
    try:
        return active.authenticator.authenticate(metadata)
    except Unauthenticated as error:
        raise errors.unauthenticated(str(error)) from None


def require(caller: Caller, roles: Collection[KeyRole], what: str) -> None:
    """Raises RpcError (PERMISSION_DENIED) unless the caller's key has one of the roles. `what`: the
    operation, for the message."""
    if caller.role not in roles:
        needed = " or ".join(role.value for role in KeyRole if role in roles)
        raise errors.denied(
            f"key {caller.key_id} has the role {caller.role.value}: {what} needs {needed}"
        )


class BoundedWriter:
    """Writes the messages of one stream. A client that leaves one unread for `limit_s` seconds
    ends it with UnreadOutput."""

    def __init__(self, context: Context, limit_s: float) -> None:
        self._context = context
        self._limit_s = limit_s
        self._began = False

    async def write(self, message: Message) -> None:
        """Writes one message, the headers before the first."""
        if not self._began:
            self._began = True
            await begin_stream(self._context)
        await write_within(self._context.write(message), self._limit_s)


async def begin_stream(context: Context) -> None:
    """Sends the headers. If the first write sent them, and were given up, gRPC would refuse to send
    a status after it."""
    await context.send_initial_metadata(())


@asynccontextmanager
async def rpc_errors(context: Context) -> AsyncIterator[None]:
    """Turns an RpcError into its status. Any other exception is logged and becomes INTERNAL without
    details."""
    try:
        yield
    except errors.RpcError as error:
        await errors.abort(context, error)
    except UnreadOutput as error:
        await errors.end_now(context, errors.unread(error))
    except ShuttingDown:
        await errors.end_now(context, errors.shutting_down())
    except Exception:
        if context.code():  # aborted already
            raise
        log.exception("an RPC failed inside the gateway")
        message = "the gateway failed: its log says why"
        await errors.abort(context, errors.RpcError(grpc.StatusCode.INTERNAL, message))
