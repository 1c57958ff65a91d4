"""Runs vLLM and the gateway in front of it, from the start to the end of both.

`serve_model` starts vLLM and the gateway. The gateway's prober takes vLLM into service after a real
one-token request. At the end the gateway drains first, while vLLM still serves.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

from gateway.server import RunningGateway, running_gateway
from moegate.up.engine_plugin import with_plugin
from moegate.up.launch import KEY_VARIABLE, SHUTDOWN_TIMEOUT_S
from moegate.up.machine import environment_for, free_ports
from moegate.up.plan import UpPlan, gateway_config
from moegate.up.process import POLL_S, ProcessTree, running
from moegate.up.tiny import build_model

PROGRESS_S = 10.0
"""Interval of progress lines while vLLM starts."""
STOP_GRACE_S = 10.0
"""Time that vLLM may take to end, beyond its --shutdown-timeout if it has served."""
LINE_CHARACTERS = 120


class EngineFailed(Exception):
    """vLLM ended or did not come into service. The text has the
    first error and the end of its log."""


@dataclass(frozen=True, slots=True)
class StopRequest:
    """Signals to stop. `stop`: drain, then end; `hurry`: end without waiting for streams."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def signal_received(self) -> None:
        """Records a signal. The first one sets `stop`, a further one sets `hurry`."""
        (self.hurry if self.stop.is_set() else self.stop).set()


async def serve_model(
    up: UpPlan, stop_request: StopRequest, key: str, announce: Callable[[RunningGateway], None]
) -> None:
    """Serves until `stop_request`. Calls `announce` once vLLM is in service.

    Leaves no process behind, however it ends.
    Raises CannotLaunch, EngineFailed, or OSError if the gateway cannot listen.
    """
    directory = Path(tempfile.mkdtemp(prefix="moegate-up-"))
    if up.builds_model:
        _report(f"making the model in {up.launch.model} unless it is there")
        building = build_model(up.vllm, directory / "model.log")
        if not await _unless_stopped(building, stop_request.stop):
            return
    await _with_vllm(up, stop_request, key, announce, directory / "vllm.log")


async def _with_vllm(
    up: UpPlan,
    stop_request: StopRequest,
    key: str,
    announce: Callable[[RunningGateway], None],
    log: Path,
) -> None:
    port = free_ports(1 + 2 * up.launch.data_parallel_size)
    # vLLM inherits the variable, and the configuration of the gateway names it.
    os.environ[KEY_VARIABLE] = secrets.token_urlsafe(32)
    command = up.launch.command(up.vllm, port, kv_events_port=port + 1)
    environment = environment_for(up.vllm, up.launch.environment)
    if up.launch.engine_feed:
        counts = up.launch.count_experts
        environment = with_plugin(environment, log.parent / "plugin", count_experts=counts)
    with running(command, log, environment) as vllm:
        _report(f"vLLM starts as process {vllm.pid}: {up.vllm} serve {up.launch.model}")
        _report(f"its log: {log}")
        stop_limit_s = STOP_GRACE_S
        try:
            async with running_gateway(gateway_config(up, port, key), Path.cwd()) as gateway:
                starting = _until_in_service(up, gateway, vllm)
                if await _unless_stopped(starting, stop_request.stop):
                    stop_limit_s += SHUTDOWN_TIMEOUT_S
                    announce(gateway)
                    await _unless_stopped(_until_gone(vllm), stop_request.stop)
                    _report(f"draining: {gateway.pipeline.active_requests} requests in flight")
                    await gateway.drain(stop_request.hurry)
        finally:
            if vllm.exit_status is None:
                _report("stopping vLLM")
            await vllm.stop(stop_limit_s, stop_request.hurry)


async def _until_in_service(up: UpPlan, gateway: RunningGateway, vllm: ProcessTree) -> None:
    """Waits until the prober has taken vLLM into service, and prints progress. Raises
    EngineFailed."""
    clock = asyncio.get_running_loop().time
    start_s = clock()
    next_line_s = start_s + PROGRESS_S
    while not (placement := gateway.scheduler.fleet.placements[0]).serving:
        if vllm.exit_status is not None:
            raise EngineFailed(
                f"vLLM ended with {_status(vllm)} before it served\n{vllm.failure()}"
            )
        now = clock()
        if now - start_s > up.start_limit_s:
            raise EngineFailed(
                f"vLLM was not in service within {up.start_limit_s:g} s: {placement.reason}"
                f"\n{vllm.failure()}"
            )
        if now >= next_line_s:
            next_line_s += PROGRESS_S
            _report(f"{now - start_s:4.0f} s: {vllm.last_line[:LINE_CHARACTERS]}")
        await asyncio.sleep(POLL_S)
    _report(f"in service after {clock() - start_s:.0f} s: vLLM {placement.reason}")


async def _until_gone(vllm: ProcessTree) -> None:
    """Waits for an unexpected end of vLLM. Raises EngineFailed."""
    await vllm.wait()
    # Printed at once, because open streams may delay the end.
    _report(f"vLLM ended with {_status(vllm)}: the gateway ends too")
    raise EngineFailed(f"vLLM ended with {_status(vllm)} while it served\n{vllm.failure()}")


async def _unless_stopped(work: Coroutine[None, None, None], stop: asyncio.Event) -> bool:
    """Runs the work until `stop`, which cancels it. True if the work has ended by itself."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        await working
        return True
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.wait((working, stopping))


def _status(process: ProcessTree) -> str:
    status = process.exit_status
    if status is not None and status < 0:
        return signal.Signals(-status).name
    return f"status {status}"


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
