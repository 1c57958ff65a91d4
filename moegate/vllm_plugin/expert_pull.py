"""Fetches what the workers counted (`experts.py`) into the feed of this API server.

A fetch is a call to every worker between two of its steps. It runs beside the answer that asked for
it, which tells what came before: neither the reader nor a step waits for the other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from moegate.vllm_plugin.feed import FEED, ExpertStep, Feed, Signature

log = logging.getLogger(__name__)

EVERY_S = 2.0
"""Shortest time between two fetches."""
AFTER_FAILURE_S = 60.0


class ExpertPull:
    """The fetches of one API server."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self, engine_client: Any) -> None:
        """Starts a fetch, unless one runs or has just been made."""
        now_s = time.monotonic()
        if engine_client is None or now_s < self._next_s:
            return
        if self._task is not None and not self._task.done():
            return
        self._next_s = now_s + EVERY_S
        self._task = asyncio.create_task(self._fetch(engine_client))

    async def _fetch(self, engine_client: Any) -> None:
        try:
            for told in await _told(engine_client):
                if told is not None:
                    add(FEED, told, time.monotonic())
        except Exception as error:  # of vLLM, whatever it is: the feed goes on without
            self._next_s = time.monotonic() + AFTER_FAILURE_S
            log.warning("the experts cannot be fetched: %r", error)


async def _told(engine_client: Any) -> list[Any]:
    """What each worker tells; None from those that do not count."""
    # No timeout: vLLM would take the late answer for that of the next call.
    call = ("collective_rpc", "moegate_experts", None, (), None)
    ask_all = getattr(engine_client.engine_core, "call_utility_all_async", None)
    if ask_all is None:
        return list(await engine_client.collective_rpc("moegate_experts"))
    return [told for engine in await ask_all(*call) for told in engine]


def add(feed: Feed, told: dict[str, Any], now_s: float) -> None:
    """Appends what one worker told to the feed."""
    engine = told["engine"]
    feed.moe = {name: told[name] for name in ("experts", "experts_per_token", "layers")}
    for age_s, tokens, prefill_tokens, distinct, load in told["steps"]:
        feed.add(
            ExpertStep(
                engine=engine,
                at_s=now_s - age_s,
                tokens=tokens,
                prefill_tokens=prefill_tokens,
                distinct=distinct,
                load=load,
            )
        )
    for request_id, tokens, experts in told["signatures"]:
        feed.add(Signature(engine=engine, id=request_id, tokens=tokens, experts=experts))
