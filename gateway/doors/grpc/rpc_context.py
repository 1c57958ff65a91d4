"""Authentication, authorisation and error mapping shared by all servicers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from gateway.auth.authenticator import Caller, Unauthenticated
from gateway.config.gateway import KeyRole
from gateway.delivery.unread import UnreadOutput, write_within
from gateway.delivery.watches import ShuttingDown
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.entry.refusals import scheduler_away
from gateway.doors.grpc import errors
from scheduler.port import SchedulerAway

log = logging.getLogger(__name__)

MAX_TEXT_CHARS = 256
"""Longest text that names something: a model, a tenant, a key, a process."""


# The context type of one RPC. Its message type parameters are irrelevant here.
Context = grpc.aio.ServicerContext[Any, Any]


Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class AuthenticatedRpc:
    """What is known of an RPC before its request is read. `metadata`: that of the client."""

    caller: Caller
    metadata: Metadata


CURRENT_RPC: ContextVar[AuthenticatedRpc] = ContextVar("moegate_rpc")
"""The RPC of the current task, set by the key check. gRPC runs each RPC in its own task."""

REQUEST_BYTES: ContextVar[int] = ContextVar("moegate_request_bytes")
"""Size of the newest message of the current RPC, inflated. A parsed message would have to be
encoded again to tell it."""


def current_caller() -> Caller:
    """Returns the caller of the current RPC."""
    return CURRENT_RPC.get().caller


def current_metadata() -> Metadata:
    """Returns the client's metadata of the current RPC."""
    return CURRENT_RPC.get().metadata


def require(caller: Caller, roles: Collection[KeyRole], what: str) -> None:
    """Raises RpcError (PERMISSION_DENIED) unless the caller's key has one of the roles. `what`: the
    operation, for the message."""
    if caller.role not in roles:
        needed = " or ".join(role.value for role in KeyRole if role in roles)
        raise errors.denied(
            f"key {caller.key_id} has the role {caller.role.value}: {what} needs {needed}"
        )


def authenticated_again(active: ActiveSettings) -> Caller:
    """Returns the caller of the current RPC by the keys in force, which a reload may have changed
    since it began. Raises RpcError (UNAUTHENTICATED)."""
    try:
        return active.authenticator.authenticate(current_metadata())
    except Unauthenticated as error:
        raise errors.unauthenticated(str(error)) from None


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


def check_texts(texts: Mapping[str, str]) -> None:
    """Raises RpcError (INVALID_ARGUMENT) unless every text, by field, can be a name in a ledger:
    short, and without NUL, which PostgreSQL rejects."""
    faults = [
        (field, f"{text[:100]!r}, {len(text)} characters: give at most {MAX_TEXT_CHARS}, no NUL")
        for field, text in texts.items()
        if len(text) > MAX_TEXT_CHARS or "\0" in text
    ]
    if faults:
        raise errors.invalid(faults)


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
    except SchedulerAway:
        await errors.abort(context, errors.call_refused(scheduler_away()))
    except ShuttingDown:
        await errors.end_now(context, errors.shutting_down())
    except grpc.aio.InternalError:
        # A write fails when the client's connection is gone. Nobody can be told.
        log.debug("the client has gone away during a write")
        raise asyncio.CancelledError from None
    except Exception:
        if context.code():  # aborted already
            raise
        log.exception("an RPC failed inside the gateway")
        message = "the gateway failed: its log says why"
        await errors.abort(context, errors.RpcError(grpc.StatusCode.INTERNAL, message))
