"""The audit log: who did what, newest first."""

from __future__ import annotations

from aiohttp import web

from gateway.doors.console.routes import ADMINS, Page
from gateway.doors.console.visits import Visit
from moegate.v1 import admin_pb2

PAGE_EVENTS = 50
FIELDS = {"actor": "Who", "target": "To what", "tenant": "Tenant"}


async def _list(visit: Visit) -> web.Response:
    asked = {name: visit.query.get(name, "").strip() for name in FIELDS}
    request = admin_pb2.ListAuditEventsRequest(
        actor=asked["actor"],
        target=asked["target"],
        tenant=asked["tenant"],
        page_size=PAGE_EVENTS,
        page_token=visit.query.get("after", ""),
    )
    answer = await visit.calls.admin.ListAuditEvents(request, **visit.rpc)
    return await visit.page(
        "access/audit.html",
        events=answer.events,
        following=answer.next_page_token,
        fields=FIELDS,
        asked=asked,
    )


AUDIT_PAGES = (Page(path="/audit", handle=_list, roles=ADMINS, name="Audit log", group="Access"),)
