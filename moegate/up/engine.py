"""vLLM with the gateway before it, from the start to the end of both.

serve_model -> _with_vllm: vLLM starts, the gateway listens, and its prober takes vLLM into service
after a real one-token request. At the end the gateway drains first, while vLLM still serves.
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
from moegate.up.launch import KEY_VARIABLE, SHUTDOWN_TIMEOUT_S
from moegate.up.machine import environment_for, free_ports
from moegate.up.plan import Up, gateway_config
from moegate.up.process import POLL_S, GuardedProcess, Guardian, guardian_process
from moegate.up.tiny import build_model

PROGRESS_S = 10.0
"""Between two lines while vLLM starts."""
STOP_GRACE_S = 10.0
"""What vLLM may take to end beyond its --shutdown-timeout, and before it ever served."""
LINE_CHARACTERS = 120


class EngineFailed(Exception):
    """vLLM ended, or did not come into service; the text holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What signals ask for: `stop`, in order; `hurry`, without waiting for what still runs."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def asked(self) -> None:
        """A signal has come: the first one, or one more."""
        (self.hurry if self.stop.is_set() else self.stop).set()


async def serve_model(
    up: Up, ending: Ending, key: str, announce: Callable[[RunningGateway], None]
) -> None:
    """Serves until the end is asked for, with `announce` once it is in service.

    Leaves no process behind, however it ends.
    Raises CannotLaunch, EngineFailed, or OSError when the gateway cannot listen.
    """
    directory = Path(tempfile.mkdtemp(prefix="moegate-up-"))
    with guardian_process() as guardian:
        if up.builds_model:
            _say(f"making the model in {up.launch.model} unless it is there")
            building = build_model(up.vllm, directory / "model.log", guardian)
            if not await _unless_stopped(building, ending.stop):
                return
        await _with_vllm(up, ending, key, announce, guardian, directory / "vllm.log")


async def _with_vllm(
    up: Up,
    ending: Ending,
    key: str,
    announce: Callable[[RunningGateway], None],
    guardian: Guardian,
    log: Path,
) -> None:
    port = free_ports(1 + 2 * up.launch.data_parallel_size)
    # For the child, which inherits it, and for the gateway, which finds it by this name.
    os.environ[KEY_VARIABLE] = secrets.token_urlsafe(32)
    command = up.launch.command(up.vllm, port, kv_events_port=port + 1)
    environment = environment_for(up.vllm, up.launch.environment)
    with guardian.start(command, log, environment) as vllm:
        _say(f"vLLM starts as process {vllm.pid}: {up.vllm} serve {up.launch.model}")
        _say(f"its log: {log}")
        stop_limit_s = STOP_GRACE_S
        try:
            async with running_gateway(gateway_config(up, port, key), Path.cwd()) as gateway:
                starting = _until_in_service(up, gateway, vllm)
                if await _unless_stopped(starting, ending.stop):
                    stop_limit_s += SHUTDOWN_TIMEOUT_S
                    announce(gateway)
                    await _unless_stopped(_until_gone(vllm), ending.stop)
                    _say(f"draining: {gateway.runtime.dispatcher.in_flight} requests in flight")
                    await gateway.drain(ending.hurry)
        finally:
            if vllm.exit_status is None:
                _say("stopping vLLM")
            await vllm.stop(stop_limit_s, ending.hurry)


async def _until_in_service(up: Up, gateway: RunningGateway, vllm: GuardedProcess) -> None:
    """Waits for the gateway's prober, and says how far vLLM is. Raises EngineFailed."""
    [placement] = gateway.runtime.scheduler.placements
    clock = asyncio.get_running_loop().time
    start_s = clock()
    next_line_s = start_s + PROGRESS_S
    while not placement.serving:
        if vllm.exit_status is not None:
            raise EngineFailed(f"vLLM ended with {_status(vllm)} before it served\n{vllm.tail()}")
        now = clock()
        if now - start_s > up.start_limit_s:
            raise EngineFailed(
                f"vLLM was not in service within {up.start_limit_s:g} s: {placement.reason}"
                f"\n{vllm.tail()}"
            )
        if now >= next_line_s:
            next_line_s += PROGRESS_S
            _say(f"{now - start_s:4.0f} s: {vllm.last_line[:LINE_CHARACTERS]}")
        await asyncio.sleep(POLL_S)
    _say(f"in service after {clock() - start_s:.0f} s: vLLM {placement.reason}")


async def _until_gone(vllm: GuardedProcess) -> None:
    """Waits until vLLM ends, which it should not. Raises EngineFailed."""
    await vllm.wait()
    # Said at once: streams that were running may hold up the end for a while.
    _say(f"vLLM ended with {_status(vllm)}: the gateway ends too")
    raise EngineFailed(f"vLLM ended with {_status(vllm)} while it served\n{vllm.tail()}")


async def _unless_stopped(work: Coroutine[None, None, None], stop: asyncio.Event) -> bool:
    """Whether the work came to its end before `stop`, which cancels it."""
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


def _status(process: GuardedProcess) -> str:
    status = process.exit_status
    if status is not None and status < 0:
        return signal.Signals(-status).name
    return f"status {status}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
