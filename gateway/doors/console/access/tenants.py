"""Tenants: the list, setting one, and deleting one, with a confirmation."""

from __future__ import annotations

import math

from aiohttp import web

from gateway.config.gateway import KeyRole
from gateway.doors.console.access.words import OWNERS
from gateway.doors.console.problems import Problem
from gateway.doors.console.routes import ADMINS, OPERATORS, Page
from gateway.doors.console.visits import Visit
from moegate.v1 import admin_pb2

DONE = {"set": "The tenant is set.", "deleted": "The tenant is deleted."}


async def _list(visit: Visit) -> web.Response:
    answer = await visit.calls.admin.ListTenants(admin_pb2.ListTenantsRequest(), **visit.rpc)
    name = visit.query.get("change", "")
    changed = next(
        (
            tenant
            for tenant in answer.tenants
            if tenant.name == name and tenant.owner == admin_pb2.OWNER_RUN_TIME
        ),
        None,
    )
    return await visit.page(
        "access/tenants.html",
        tenants=answer.tenants,
        owners=OWNERS,
        changed=changed,
        of_run_time=admin_pb2.OWNER_RUN_TIME,
        may_set=visit.visitor.caller.role is KeyRole.OPERATOR,
        done=DONE.get(visit.query.get("done", ""), ""),
    )


async def _set(visit: Visit) -> web.Response:
    tenant = admin_pb2.Tenant(name=visit.form.get("name", "").strip())
    if text := visit.form.get("weight", "").strip():
        try:
            tenant.weight = float(text)
        except ValueError:
            tenant.weight = math.nan
        if not math.isfinite(tenant.weight):
            raise Problem(400, "This is no weight", "Give a number above 0, or nothing.")
    if text := visit.form.get("rpcs", "").strip():
        if not (text.isdecimal() and text.isascii() and len(text) < 13):
            raise Problem(400, "This is no bound", "Give a whole number, or nothing.")
        tenant.rpcs = int(text)
    request = admin_pb2.SetTenantRequest(tenant=tenant)
    if visit.form.get("whole"):  # the form had the values of before: what is empty was taken out
        request.update_mask.paths.extend(("weight", "rpcs"))
    await visit.calls.admin.SetTenant(request, **visit.rpc)
    return visit.see("/tenants?done=set")


async def _ask_delete(visit: Visit) -> web.Response:
    return await visit.page("access/tenant_delete.html", name=visit.parameters["name"])


async def _delete(visit: Visit) -> web.Response:
    request = admin_pb2.DeleteTenantRequest(name=visit.parameters["name"])
    await visit.calls.admin.DeleteTenant(request, **visit.rpc)
    return visit.see("/tenants?done=deleted")


TENANTS_PAGES = (
    Page(path="/tenants", handle=_list, roles=ADMINS, name="Tenants", group="Access"),
    Page(path="/tenants", handle=_set, method="POST", roles=OPERATORS),
    Page(path="/tenants/{name}/delete", handle=_ask_delete, roles=OPERATORS),
    Page(path="/tenants/{name}/delete", handle=_delete, method="POST", roles=OPERATORS),
)
