"""The part of AdminService on keys, tenants and the audit log."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from gateway.access import audit
from gateway.access.changes import (
    AccessRefused,
    Allowed,
    NameTaken,
    NoSuchEntry,
    create_key,
    delete_tenant,
    revoke_key,
    rotate_key,
    set_tenant,
    update_key,
)
from gateway.access.rows import KeyRow
from gateway.access.store import AccessStore
from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.auth.authenticator import Caller
from gateway.auth.rights import beyond, inherited, rights_of
from gateway.config.gateway import KeyConfig, KeyRole
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.grpc import errors
from gateway.doors.grpc.access.changes import (
    changed_paths,
    changed_settings,
    tenant_change,
)
from gateway.doors.grpc.access.lists import KeyPages, page_of, tenant_messages
from gateway.doors.grpc.access.messages import (
    event_message,
    expiry_us,
    key_config,
    run_time_key,
)
from gateway.doors.grpc.ledger_errors import unavailable
from gateway.doors.grpc.rpc_context import (
    Context,
    check_texts,
    current_caller,
    require,
    rpc_errors,
)
from gateway.doors.grpc.times import seconds_of
from moegate.v1 import admin_pb2, admin_pb2_grpc

T = TypeVar("T")
LONGEST_GRACE_S = 90 * 86_400.0
ADMINS = {KeyRole.TENANT_ADMIN, KeyRole.OPERATOR}


class AccessService(admin_pb2_grpc.AdminServiceServicer):
    """Operators manage all keys, a tenant's admins those of the tenant that have no more rights
    than their own key. What the configuration file declares is listed, and changed by nobody here.
    Every change is in force in all processes of the gateway when its RPC is answered.

    Every RPC raises UNAUTHENTICATED or PERMISSION_DENIED for a key without the required role,
    FAILED_PRECONDITION for what the file declares, and UNAVAILABLE without a database.
    """

    def __init__(self, active: ActiveSettings, access: AccessStore) -> None:
        self._active = active
        self._access = access

    async def CreateKey(
        self, request: admin_pb2.CreateKeyRequest, context: Context
    ) -> admin_pb2.CreateKeyResponse:
        """Makes a key and returns its secret, this once. Raises ALREADY_EXISTS for an id that is in
        use, NOT_FOUND for an unknown tenant."""
        async with self._refusals(context):
            caller = self._admin("making a key")
            tenant = request.tenant or caller.tenant
            if caller.role is KeyRole.TENANT_ADMIN and tenant != caller.tenant:
                raise errors.denied(f"tenant: key {caller.key_id} may make keys of {caller.tenant}")
            by = self._access.by(caller.actor)
            key_id = request.key_id or f"key-{secrets.token_hex(6)}"
            config = key_config(key_id, request.settings, self._active.config)
            expires_us = expiry_us(request.settings)
            if expires_us is not None and expires_us <= by.now_us:
                raise errors.invalid([("settings.expires_at", "is over: give a time to come")])
            if caller.role is KeyRole.TENANT_ADMIN:
                own = self._rights(caller)
                config = inherited(config, own)
                self._check_rights(config, own)
            row, secret = await self._access.change(
                lambda tx: create_key(tx, by, tenant, config, expires_us)
            )
            return admin_pb2.CreateKeyResponse(key=self._key_message(row), secret=secret)

    async def ListKeys(
        self, request: admin_pb2.ListKeysRequest, context: Context
    ) -> admin_pb2.ListKeysResponse:
        """Lists keys by id, of the file and of run time."""
        async with self._refusals(context):
            tenant = self._visible(request.tenant, "a list of keys")
            check_texts({"key_id": request.key_id, "page_token": request.page_token})
            limit = page_of(request.page_size)
            pages = KeyPages(self._active.config, tenant, request.key_id, request.with_revoked)
            rows = await self._access.read(lambda tx: pages.rows(tx, request.page_token, limit))
            keys = [*pages.declared(request.page_token), *map(self._key_message, rows)]
            keys.sort(key=lambda key: key.key_id)
            more = len(keys) > limit
            return admin_pb2.ListKeysResponse(
                keys=keys[:limit], next_page_token=keys[limit - 1].key_id if more else ""
            )

    async def UpdateKey(
        self, request: admin_pb2.UpdateKeyRequest, context: Context
    ) -> admin_pb2.UpdateKeyResponse:
        """Changes what a key may do, and when it expires: a time that is over ends it now."""
        async with self._refusals(context):
            caller = self._admin("changing a key")
            check_texts({"key_id": request.key_id})
            paths = changed_paths(request.update_mask)
            expires_us = expiry_us(request.settings)
            own = self._rights(caller) if caller.role is KeyRole.TENANT_ADMIN else None

            def change(row: KeyRow) -> KeyRow:
                merged = changed_settings(row.config, request.settings, paths)
                config = key_config(row.config.id, merged, self._active.config)
                if own is not None:
                    config = inherited(config, own)
                    self._check_rights(config, own)
                expires = expires_us if "expires_at" in paths else row.expires_us
                return replace(row, config=config, expires_us=expires)

            by, key_id = self._access.by(caller.actor), request.key_id
            row = await self._access.change(
                lambda tx: update_key(tx, by, key_id, change, self._allowed(caller))
            )
            return admin_pb2.UpdateKeyResponse(key=self._key_message(row))

    async def RotateKey(
        self, request: admin_pb2.RotateKeyRequest, context: Context
    ) -> admin_pb2.RotateKeyResponse:
        """Gives a key another secret, and returns it, this once."""
        async with self._refusals(context):
            caller = self._admin("rotating a key")
            check_texts({"key_id": request.key_id})
            grace_s = 0.0
            if request.grace.seconds or request.grace.nanos:
                try:
                    grace_s = seconds_of(request.grace, most_s=LONGEST_GRACE_S)
                except ValueError as error:
                    raise errors.invalid([("grace", str(error))]) from None
            by, key_id = self._access.by(caller.actor), request.key_id
            row, secret = await self._access.change(
                lambda tx: rotate_key(tx, by, key_id, round(grace_s * 1e6), self._allowed(caller))
            )
            return admin_pb2.RotateKeyResponse(key=self._key_message(row), secret=secret)

    async def RevokeKey(
        self, request: admin_pb2.RevokeKeyRequest, context: Context
    ) -> admin_pb2.RevokeKeyResponse:
        """Ends a key for good. What runs with it goes on to its end."""
        async with self._refusals(context):
            caller = self._admin("revoking a key")
            check_texts({"key_id": request.key_id})
            by, key_id = self._access.by(caller.actor), request.key_id
            row = await self._access.change(
                lambda tx: revoke_key(tx, by, key_id, self._allowed(caller))
            )
            return admin_pb2.RevokeKeyResponse(key=self._key_message(row))

    async def SetTenant(
        self, request: admin_pb2.SetTenantRequest, context: Context
    ) -> admin_pb2.SetTenantResponse:
        """Makes a tenant, or changes one that was made at run time. For operators."""
        async with self._refusals(context):
            caller = current_caller()
            require(caller, {KeyRole.OPERATOR}, "setting a tenant")
            change = tenant_change(request)
            change(None)  # faults are told before anything is written
            by, name = self._access.by(caller.actor), request.tenant.name
            tenant = await self._access.change(lambda tx: set_tenant(tx, by, name, change))
            return admin_pb2.SetTenantResponse(
                tenant=next(
                    message
                    for message in tenant_messages(self._active, by.now_us)
                    if message.name == tenant.name
                )
            )

    async def DeleteTenant(
        self, request: admin_pb2.DeleteTenantRequest, context: Context
    ) -> admin_pb2.DeleteTenantResponse:
        """Deletes a tenant that was made at run time and has no keys. For operators."""
        async with self._refusals(context):
            caller = current_caller()
            require(caller, {KeyRole.OPERATOR}, "deleting a tenant")
            check_texts({"name": request.name})
            by = self._access.by(caller.actor)
            await self._access.change(lambda tx: delete_tenant(tx, by, request.name))
            return admin_pb2.DeleteTenantResponse()

    async def ListTenants(
        self, request: admin_pb2.ListTenantsRequest, context: Context
    ) -> admin_pb2.ListTenantsResponse:
        """Lists the tenants that the caller may see, with the number of their keys in force."""
        async with self._refusals(context):
            only = self._visible("", "a list of tenants")
            now_us = self._access.by("").now_us
            found = tenant_messages(self._active, now_us)
            return admin_pb2.ListTenantsResponse(
                tenants=[each for each in found if only in ("", each.name)]
            )

    async def ListAuditEvents(
        self, request: admin_pb2.ListAuditEventsRequest, context: Context
    ) -> admin_pb2.ListAuditEventsResponse:
        """Lists the events that the caller may see, newest first."""
        async with self._refusals(context):
            tenant = self._visible(request.tenant, "the audit log")
            check_texts({"actor": request.actor, "target": request.target})
            limit, token = page_of(request.page_size), request.page_token
            if token and not (token.isdecimal() and token.isascii() and len(token) < 19):
                raise errors.invalid([("page_token", "is none of `next_page_token`")])
            found = await self._access.read(
                lambda tx: audit.events(
                    tx,
                    tenant=tenant,
                    actor=request.actor,
                    target=request.target,
                    before_id=int(token) if token else 2**62,
                    limit=limit + 1,
                )
            )
            return admin_pb2.ListAuditEventsResponse(
                events=map(event_message, found[:limit]),
                next_page_token=str(found[limit - 1].event_id) if len(found) > limit else "",
            )

    @asynccontextmanager
    async def _refusals(self, context: Context) -> AsyncIterator[None]:
        """Turns what changes and queries raise into statuses."""
        async with rpc_errors(context):
            try:
                yield
            except NoSuchEntry as error:
                raise errors.missing(str(error)) from error
            except NameTaken as error:
                raise errors.name_taken(str(error)) from error
            except AccessRefused as error:
                raise errors.precondition(str(error), "ACCESS_REFUSED") from error
            except LedgerUnavailable as error:
                raise unavailable(error) from error

    def _admin(self, what: str) -> Caller:
        caller = current_caller()
        require(caller, ADMINS, what)
        return caller

    def _visible(self, tenant: str, what: str) -> str:
        """The tenant that a list is of; empty: all. Raises RpcError."""
        caller = self._admin(what)
        check_texts({"tenant": tenant})
        if caller.role is KeyRole.OPERATOR:
            return tenant
        if tenant not in ("", caller.tenant):
            raise errors.denied(f"tenant: key {caller.key_id} may see {caller.tenant}")
        return caller.tenant

    def _allowed(self, caller: Caller) -> Allowed:
        """Returns what raises RpcError for a key that the caller may not manage."""

        def check(row: KeyRow) -> None:
            if caller.role is KeyRole.OPERATOR:
                return
            if row.tenant != caller.tenant:
                # As for a key that there is not: another tenant's keys are none of its business.
                raise NoSuchEntry(f"key_id: {row.config.id!r}: no such key")
            self._check_rights(row.config, self._rights(caller))

        return check

    def _rights(self, caller: Caller) -> KeyConfig:
        for tenant in self._active.effective.tenants:
            for key in tenant.keys:
                if key.id == caller.key_id and tenant.name == caller.tenant:
                    return key
        return rights_of(caller)

    def _check_rights(self, config: KeyConfig, own: KeyConfig) -> None:
        if faults := list(beyond(config, own)):
            text = "; ".join(f"settings.{field}: {fault}" for field, fault in faults)
            raise errors.denied(f"more rights than those of your own key: {text[:800]}")

    def _key_message(self, row: KeyRow) -> admin_pb2.Key:
        now_us = self._access.by("").now_us
        declared = {key.id for tenant in self._active.config.tenants for key in tenant.keys}
        known = {tenant.name for tenant in self._active.effective.tenants}
        shadowed = row.config.id in declared or row.tenant not in known
        return run_time_key(row, now_us, shadowed=shadowed)
