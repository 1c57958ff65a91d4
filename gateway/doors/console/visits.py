"""One request for a page: what its function reads, and how it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from gateway.doors.console.calls import CALL_S, Calls
from gateway.doors.console.fleet import FleetWatch
from gateway.doors.console.problems import Problem
from gateway.doors.console.visitor import Visitor
from gateway.doors.entry.active_settings import ActiveSettings


@dataclass(frozen=True, slots=True)
class Services:
    """What all pages use.

    Attributes:
        active: settings in force.
        fleet: the watch of the fleet that all operators share.
        is_https: whether the console's port speaks TLS.
    """

    active: ActiveSettings
    calls: Calls
    fleet: FleetWatch
    is_https: bool


class Renders(Protocol):
    """Makes the answer of a page."""

    async def __call__(
        self, visit: Visit, template: str, status: int, values: Mapping[str, object]
    ) -> web.Response:
        """Renders a template of the folder `templates`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A request for a page.

    Attributes:
        somebody: who asks; None: nobody that the gateway knows.
        parameters: values of the path's parameters.
        query: the first value of each field of the query.
        form: the fields of a posted form, whose token is checked.
    """

    request: web.BaseRequest
    services: Services
    render: Renders
    somebody: Visitor | None
    parameters: Mapping[str, str]
    query: Mapping[str, str]
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def visitor(self) -> Visitor:
        """Who asks. Raises Problem if nobody is signed in."""
        if self.somebody is None:
            raise Problem(401, "You are not signed in", "Sign in to see this page.")
        return self.somebody

    @property
    def calls(self) -> Calls:
        """Stubs of the gateway's services."""
        return self.services.calls

    @property
    def rpc(self) -> dict[str, Any]:
        """Arguments of every RPC: the visitor's credential, and a time limit."""
        return {"metadata": self.visitor.metadata, "timeout": CALL_S}

    async def page(self, template: str, status: int = 200, **values: object) -> web.Response:
        """Returns a page, or only its live part if that was asked for."""
        return await self.render(self, template, status, values)

    def see(self, path: str) -> web.Response:
        """Sends the reader to another page, after a form or in place of this one."""
        return web.Response(status=303, headers={"Location": path})
