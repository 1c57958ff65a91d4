"""Live parts are shared, and one tenant's viewers do not drive out those of another."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.doors.console import rendering
from gateway.doors.console.assets import Assets
from gateway.doors.console.rendering import Rendering
from gateway.doors.console.routes import Live
from gateway.doors.console.visits import Visit


def visit(tenant: str, path: str) -> Visit:
    """A visit of the tenant's only key."""
    caller = SimpleNamespace(role="caller", tenant=tenant, key_id=f"key of {tenant}")
    request = SimpleNamespace(path_qs=path, headers={})
    made = SimpleNamespace(visitor=SimpleNamespace(caller=caller), request=request)
    return cast("Visit", made)


async def test_a_tenant_with_many_pages_does_not_drive_out_those_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rendering, "MOST_SHARED", 4)
    made: Counter[str] = Counter()

    async def values(visit: Visit) -> dict[str, Any]:
        made[visit.visitor.caller.tenant] += 1
        return {"models": [], "tasks": {}}

    live = Live(template="models_live.html", values=values)
    pages = Rendering((), Assets(), lambda: 0.0)
    await pages.live_answer(live, visit("quiet", "/models"))
    for number in range(20):
        await pages.live_answer(live, visit("busy", f"/models?n={number}"))
    await pages.live_answer(live, visit("quiet", "/models"))
    await pages.live_answer(live, visit("busy", "/models?n=19"))
    assert made == {"quiet": 1, "busy": 20}
