"""The route of the feed: `vllm serve ... --middleware moegate.vllm_plugin.route.StepsRoute`.

A middleware and not an entry point of `vllm.endpoint_plugins`: those need VLLM_PLUGINS, which then
excludes every other plugin that it does not name.

The key is vLLM's own (`--api-key`, VLLM_API_KEY) or that of MOEGATE_FEED_KEY. A server without any
key has no such route: the ids of requests are not for everyone who reaches the port.
"""

from __future__ import annotations

import os
import secrets
from typing import Any
from urllib.parse import parse_qs

from moegate.vllm_plugin.expert_pull import ExpertPull
from moegate.vllm_plugin.experts import is_on
from moegate.vllm_plugin.feed import FEED, PATH

KEY_VARIABLES = ("MOEGATE_FEED_KEY", "VLLM_API_KEY")


class StepsRoute:
    """Answers GET /moegate/steps?after=INSTANCE.NEXT, and passes everything else on."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._keys = [key for name in KEY_VARIABLES if (key := os.environ.get(name))]
        self._experts = ExpertPull() if is_on() else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        state = getattr(scope.get("app"), "state", None)
        args = getattr(state, "args", None)
        keys = [*self._keys, *(getattr(args, "api_key", None) or ())]
        if not keys:
            await self._app(scope, receive, send)  # vLLM's own 404
            return
        status, body = 401, b'{"error":"Unauthorized"}'
        if is_authorized(dict(scope["headers"]).get(b"authorization", b""), keys):
            query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=64)
            if self._experts is not None:
                self._experts.start(getattr(state, "engine_client", None))
            status, body = 200, FEED.answer(query.get("after", []))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            # Each answer comes from one of the API servers: the next connection may reach another.
            *([(b"connection", b"close")] if FEED.processes > 1 else []),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def is_authorized(header: bytes, keys: list[str]) -> bool:
    """Whether an Authorization header has one of the keys."""
    scheme, _, given = header.partition(b" ")
    if scheme.lower() != b"bearer":
        return False
    return any([secrets.compare_digest(given, key.encode()) for key in keys])
