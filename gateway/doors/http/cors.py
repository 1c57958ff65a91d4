"""Cross-origin requests of browsers: refused unless the configuration lists their origin."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

MAX_AGE_S = 600
EXPOSED = "x-request-id, retry-after, x-moegate-placement, x-moegate-reason, x-moegate-cost-usd"


def cors_headers(request: web.BaseRequest, origins: Collection[str]) -> dict[str, str]:
    """Headers of an answer to an allowed origin; otherwise none."""
    origin = request.headers.get("Origin")
    if origin is None or not (origin in origins or "*" in origins):
        return {}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": EXPOSED,
        "Vary": "Origin",
    }


def preflight(
    request: web.BaseRequest, methods: Collection[str], origins: Collection[str]
) -> web.Response | None:
    """The answer to a preflight of an allowed origin; None: it is none. `methods`: those of the
    path."""
    wanted = request.headers.get("Access-Control-Request-Method")
    if request.method != "OPTIONS" or wanted is None or not methods:
        return None
    found = cors_headers(request, origins)
    if not found:
        return None
    found["Access-Control-Allow-Methods"] = ", ".join(sorted(methods))
    found["Access-Control-Max-Age"] = str(MAX_AGE_S)
    asked = request.headers.get("Access-Control-Request-Headers")
    if asked is not None:
        found["Access-Control-Allow-Headers"] = asked
    return web.Response(status=204, headers=found)
