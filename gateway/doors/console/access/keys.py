"""API keys: the list, making one, and one key with its rotation, expiry and revocation.

A secret stands on the page that answers the form, this once: it has no address of its own.
"""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from aiohttp import web
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from gateway.config.gateway import KeyRole
from gateway.doors.console.access.words import (
    LIMITS,
    OWNERS,
    ROLE_NAMES,
    ROLES,
    STATES,
    expiry_of,
    rights,
    settings_of,
)
from gateway.doors.console.problems import Problem
from gateway.doors.console.routes import ADMINS, Page
from gateway.doors.console.visits import Visit
from moegate.v1 import admin_pb2, inference_pb2

PAGE_KEYS = 100
GRACES = {"at once": 0, "after an hour": 3600, "after a day": 86_400, "after a week": 604_800}
"""When the secrets of before end, in seconds."""
DONE = {
    "revoked": "The key is revoked.",
    "changed": "The expiry is changed.",
}


async def _list(visit: Visit) -> web.Response:
    query = visit.query
    answer, tenants, models = await asyncio.gather(
        visit.calls.admin.ListKeys(
            admin_pb2.ListKeysRequest(
                tenant=query.get("tenant", "").strip(),
                with_revoked=bool(query.get("revoked")),
                page_size=PAGE_KEYS,
                page_token=query.get("after", ""),
            ),
            **visit.rpc,
        ),
        visit.calls.admin.ListTenants(admin_pb2.ListTenantsRequest(), **visit.rpc),
        visit.calls.inference.ListModels(inference_pb2.ListModelsRequest(), **visit.rpc),
    )
    caller = visit.visitor.caller
    is_operator = caller.role is KeyRole.OPERATOR
    return await visit.page(
        "access/keys.html",
        keys=answer.keys,
        following=answer.next_page_token,
        tenants=[tenant.name for tenant in tenants.tenants],
        own_tenant=caller.tenant,
        models=[model.name for model in models.models],
        roles=[role for role in ROLES if is_operator or role != "operator"],
        limits=LIMITS,
        states=STATES,
        owners=OWNERS,
        role_names=ROLE_NAMES,
        done=DONE.get(query.get("done", ""), ""),
        query=query,
    )


async def _create(visit: Visit) -> web.Response:
    form = visit.form
    request = admin_pb2.CreateKeyRequest(
        key_id=form.get("key_id", "").strip(),
        tenant=form.get("tenant", "").strip(),
        settings=settings_of(form),
    )
    answer = await visit.calls.admin.CreateKey(request, **visit.rpc)
    return await visit.page("access/secret.html", key=answer.key, secret=answer.secret)


async def _show(visit: Visit) -> web.Response:
    return await visit.page(
        "access/key.html",
        key=(key := await _found(visit)),
        rights=list(rights(key.settings)),
        states=STATES,
        owners=OWNERS,
        graces=GRACES,
        of_file=key.owner == admin_pb2.OWNER_FILE,
        is_revoked=key.state == admin_pb2.KEY_STATE_REVOKED,
        done=DONE.get(visit.query.get("done", ""), ""),
    )


async def _rotate(visit: Visit) -> web.Response:
    grace_s = GRACES.get(visit.form.get("grace", ""))
    if grace_s is None:
        text = f"Say when the secrets of before end: {', '.join(GRACES)}."
        raise Problem(400, "This is no time for them to end", text)
    request = admin_pb2.RotateKeyRequest(
        key_id=visit.parameters["key_id"], grace=Duration(seconds=grace_s) if grace_s else None
    )
    answer = await visit.calls.admin.RotateKey(request, **visit.rpc)
    return await visit.page("access/secret.html", key=answer.key, secret=answer.secret)


async def _expire(visit: Visit) -> web.Response:
    settings = admin_pb2.KeySettings()
    if (expires := expiry_of(visit.form)) is not None:
        settings.expires_at.FromDatetime(expires)
    request = admin_pb2.UpdateKeyRequest(
        key_id=visit.parameters["key_id"],
        settings=settings,
        update_mask=FieldMask(paths=["expires_at"]),
    )
    answer = await visit.calls.admin.UpdateKey(request, **visit.rpc)
    return visit.see(f"/keys/{quote(answer.key.key_id)}?done=changed")


async def _ask_revoke(visit: Visit) -> web.Response:
    return await visit.page("access/revoke.html", key=await _found(visit))


async def _revoke(visit: Visit) -> web.Response:
    request = admin_pb2.RevokeKeyRequest(key_id=visit.parameters["key_id"])
    await visit.calls.admin.RevokeKey(request, **visit.rpc)
    return visit.see("/keys?done=revoked")


async def _found(visit: Visit) -> admin_pb2.Key:
    """The key of the path; the one of the file where there are two. Raises Problem."""
    key_id = visit.parameters["key_id"]
    request = admin_pb2.ListKeysRequest(key_id=key_id, with_revoked=True)
    answer = await visit.calls.admin.ListKeys(request, **visit.rpc)
    if not answer.keys:
        raise Problem(404, "There is no such key", f"{key_id[:100]}: or you may not see it.")
    return min(answer.keys, key=lambda key: key.owner)


KEYS_PAGES = (
    Page(path="/keys", handle=_list, roles=ADMINS, name="Keys", group="Access"),
    Page(path="/keys", handle=_create, method="POST", roles=ADMINS),
    Page(path="/keys/{key_id}", handle=_show, roles=ADMINS),
    Page(path="/keys/{key_id}/rotate", handle=_rotate, method="POST", roles=ADMINS),
    Page(path="/keys/{key_id}/expire", handle=_expire, method="POST", roles=ADMINS),
    Page(path="/keys/{key_id}/revoke", handle=_ask_revoke, roles=ADMINS),
    Page(path="/keys/{key_id}/revoke", handle=_revoke, method="POST", roles=ADMINS),
)
