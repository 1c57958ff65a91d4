"""Notices that the configuration file, or a file that it names, has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from gateway.config.gateway import GatewayConfig

State = tuple[int, int, int] | None
"""Inode, size and time of the last change (ns) of a file; None: it cannot be read."""
States = dict[Path, State]
OFF_S = 1.0
"""Time between two looks whether the watch was switched on."""


async def watch_files(
    path: Path, active: Callable[[], GatewayConfig], changed: Callable[[], None]
) -> None:
    """Looks at the files every `server.watch_files_s`, and calls `changed` once for each change.

    `path`: the configuration file. `active`: the configuration in force. A change is reported when
    two looks in a row found the same, so that nobody reads a file that is being written. A symbolic
    link stands for the file that it leads to: Kubernetes replaces mounted ConfigMaps and Secrets by
    changing one link. Runs until it is cancelled; waits while `watch_files_s` is absent.
    """
    reported: States | None = None
    previous: States | None = None
    while True:
        interval_s = active().server.watch_files_s
        if interval_s is None:
            reported = None
            await asyncio.sleep(OFF_S)
            continue
        if reported is None:
            reported = previous = await asyncio.to_thread(_states, path, active())
        await asyncio.sleep(interval_s)
        found = await asyncio.to_thread(_states, path, active())
        if found == previous and found != reported:
            reported = found
            changed()
        previous = found


def named_files(config: GatewayConfig, base_dir: Path) -> set[Path]:
    """Existing files that the configuration names, without those that the gateway writes."""
    written = {config.ledger.sqlite, config.ledger.spool, config.metering.state}
    names = set(_texts(config)) - written
    return {file for name in names if (file := base_dir / name).is_file()}


def _states(path: Path, config: GatewayConfig) -> States:
    return {file: _state(file) for file in {path, *named_files(config, path.parent)}}


def _state(file: Path) -> State:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _texts(value: object) -> Iterator[str]:
    """Every text of a configuration that may name a file."""
    if isinstance(value, str):
        if value and "\0" not in value and len(value) < 1024:
            yield value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _texts(getattr(value, name))
    elif isinstance(value, tuple):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
