"""Asks self-hosted servers what they are: figures that their metrics do not tell.

One task for each replica whose pool names a gRPC port. It runs beside the prober, so that a port
that does not answer delays no probe. Whatever goes wrong here changes nothing else: the figures
stay what the configuration and the metrics say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from gateway.config.gateway import PoolConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.fleet.keyed_tasks import KeyedTasks
from gateway.upstream.vllm_grpc.server_info import MOST, ServerFigures, server_figures
from scheduler.contract import EngineReport

log = logging.getLogger(__name__)

TIMEOUT_S = 3.0
"""Of one question, the connection included."""
AGAIN_S = 15.0
"""Time until a server that has answered is asked again: it may have been restarted."""
ABSENT_S = 60.0
"""Time until a server that cannot answer is asked again, unless it comes into service before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlAddress:
    """Where a replica serves `vllm.Control`: over TLS where its HTTP address has TLS."""

    address: str
    """host:port"""
    tls: bool


Ask = Callable[[ControlAddress], Awaitable[ServerFigures]]
"""One question to a server. Raises UpstreamFailure."""


def control_address(pool: PoolConfig, url: str, port: int | None = None) -> ControlAddress | None:
    """Where the replica at `url` is asked; None: its pool names no port. `port`: its own, where it
    differs from the port of the pool."""
    parts, port = urlsplit(url), port or pool.grpc_port
    if port is None or parts.hostname is None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return ControlAddress(address=f"{host}:{port}", tls=parts.scheme == "https")


async def ask(control: ControlAddress) -> ServerFigures:
    """Asks a server, for at most `TIMEOUT_S`. Raises UpstreamFailure."""
    return await server_figures(control.address, tls=control.tls, timeout_s=TIMEOUT_S)


class ServerInfoWatch:
    """The newest figures of each replica that is asked, while `run` is running."""

    def __init__(self, asked: Ask = ask) -> None:
        self._ask = asked
        self._figures: dict[str, ServerFigures] = {}
        self._in_service: dict[str, asyncio.Event] = {}
        self._tasks: KeyedTasks[str, ControlAddress] = KeyedTasks(
            "moegate-server-info", self._follow
        )

    def apply(self, wanted: Mapping[str, ControlAddress]) -> None:
        """Makes these the replicas that are asked, by name. Figures of another server are
        forgotten."""
        difference = self._tasks.apply(wanted)
        for name in (*difference.removed, *difference.changed):
            self._figures.pop(name, None)
            self._in_service.pop(name, None)

    def notify_in_service(self, replica: str) -> None:
        """A replica has come into service: it is asked at once."""
        if (event := self._in_service.get(replica)) is not None:
            event.set()

    def completed(self, replica: str, report: EngineReport, placements: int) -> EngineReport:
        """The report of one of the replica's placements, with figures that only the server told.

        `placements`: of the replica; several are its pinned ranks.
        """
        figures = self._figures.get(replica)
        return report if figures is None else _completed(report, figures, placements)

    async def run(self) -> None:
        """Asks until cancelled."""
        await self._tasks.run()

    async def _follow(self, name: str, control: ControlAddress) -> None:
        in_service = self._in_service[name] = asyncio.Event()
        said = ""
        while True:
            in_service.clear()
            try:
                figures = await self._ask(control)
                self._figures[name] = figures
                says, pause_s = f"tells {_shown(figures)}", AGAIN_S
            except UpstreamFailure as failure:
                if failure.kind is not FailureKind.CONNECT:
                    self._figures.pop(name, None)  # another server may be there now
                says, pause_s = f"tells nothing of itself: {failure}", ABSENT_S
            if says != said:
                said = says
                log.info("%s at %s %s", name, control.address, says)
            await _wait(in_service, pause_s)


def _completed(report: EngineReport, figures: ServerFigures, placements: int) -> EngineReport:
    capacity, derived = report.kv_capacity_tokens, report.kv_capacity_derived
    if capacity is None and figures.kv_capacity_tokens is not None:
        capacity, derived = figures.kv_capacity_tokens // placements, True
    ranks = 1 if placements > 1 else figures.ranks
    most = figures.rank_max_running
    most = None if most is None or ranks is None or most * ranks > MOST else most * ranks
    return replace(
        report,
        kv_capacity_tokens=capacity,
        kv_capacity_derived=derived,
        context_tokens=report.context_tokens or figures.context_tokens,
        max_running=most,
    )


def _shown(figures: ServerFigures) -> str:
    return (
        f"version {figures.version or 'unknown'}, {figures.ranks} ranks of"
        f" {figures.rank_max_running} sequences, {figures.context_tokens} tokens of context,"
        f" {figures.kv_capacity_tokens} tokens of KV cache"
    )


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
