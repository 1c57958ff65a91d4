"""vLLM with the gateway before it, from the start to the end of both.

serve_model -> _front: vLLM starts, the gateway listens, and its prober takes vLLM into service
after a real one-token request. At the end the gateway drains first, while vLLM still serves.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.auth import key_sha256
from gateway.config import Config, Gpu, Key, MoeShape, Pool, Replica, Secret, Server, Tenant
from gateway.server import RunningGateway, running_gateway
from gateway.up.launch import (
    HOST,
    KEY_VARIABLE,
    SHUTDOWN_TIMEOUT_S,
    CannotLaunch,
    Launch,
    environment_for,
)
from gateway.up.process import POLL_S, GuardedProcess, Guardian, guardian_process
from gateway.up.tiny import build_model

PROGRESS_S = 10.0
"""Between two lines while vLLM starts."""
STOP_GRACE_S = 10.0
"""What vLLM may take to end beyond its --shutdown-timeout, and before it ever served."""
LINE_CHARACTERS = 120
PORT_TRIES = 100


class EngineFailed(Exception):
    """vLLM ended, or did not come into service; the text holds the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """What the command line says.

    Attributes:
        builds_model: the model is the tiny one, made on the spot.
        moe: experts of the model; None: unknown.
        start_limit_s: from the start of vLLM until it is in service.
    """

    vllm: Path
    launch: Launch
    listen: str
    gpu: Gpu
    builds_model: bool = False
    moe: MoeShape | None = None
    start_limit_s: float = 1800.0


async def serve_model(
    up: Up, stop: asyncio.Event, key: str, announce: Callable[[RunningGateway], None]
) -> None:
    """Serves until `stop`, with `announce` once it is in service; leaves no process behind.

    Raises CannotLaunch, EngineFailed, or OSError when the gateway cannot listen.
    """
    directory = Path(tempfile.mkdtemp(prefix="moegate-up-"))
    with guardian_process() as guardian:
        if up.builds_model:
            _say(f"making the model in {up.launch.model} unless it is there")
            building = build_model(up.vllm, directory / "model.log", guardian)
            if not await _unless_stopped(building, stop):
                return
        await _with_vllm(up, stop, key, announce, guardian, directory / "vllm.log")


async def _with_vllm(
    up: Up,
    stop: asyncio.Event,
    key: str,
    announce: Callable[[RunningGateway], None],
    guardian: Guardian,
    log: Path,
) -> None:
    port, kv_events_port = free_ports(1), free_ports(up.launch.data_parallel_size)
    # For the child, which inherits it, and for the gateway, which finds it by this name.
    os.environ[KEY_VARIABLE] = secrets.token_urlsafe(32)
    command = up.launch.command(up.vllm, port, kv_events_port)
    environment = environment_for(up.vllm, up.launch.environment)
    with guardian.start(command, log, environment) as vllm:
        _say(f"vLLM starts as process {vllm.pid}: {up.vllm} serve {up.launch.model}")
        _say(f"its log: {log}")
        stop_limit_s = STOP_GRACE_S
        try:
            async with running_gateway(_config(up, port, key), Path.cwd()) as gateway:
                front = _front(up, gateway, vllm)
                if await _unless_stopped(front, stop):
                    stop_limit_s += SHUTDOWN_TIMEOUT_S
                    announce(gateway)
                    await _unless_stopped(_until_gone(vllm), stop)
                    _say(f"draining: {gateway.runtime.dispatcher.in_flight} requests in flight")
        finally:
            if vllm.exit_status is None:
                _say("stopping vLLM")
            await vllm.stop(stop_limit_s)


def free_ports(count: int) -> int:
    """The first of `count` loopback ports in a row that are free now. Raises CannotLaunch."""
    for _ in range(PORT_TRIES):
        with socket.socket() as first:
            first.bind((HOST, 0))
            port: int = first.getsockname()[1]
            if all(_is_free(port + i) for i in range(1, count)):
                return port
    raise CannotLaunch(f"no {count} free ports in a row on {HOST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return False
    return True
