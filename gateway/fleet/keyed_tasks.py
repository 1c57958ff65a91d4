"""Background tasks by key, started and cancelled by difference.

The prober, the KV event listener and DNS discovery each follow a set of things that changes on a
running gateway. Each states the whole set it wants; a task whose key and settings stay is not
disturbed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Generic[K]):
    """Keys that were added, whose settings have changed, and that were removed."""

    added: tuple[K, ...]
    changed: tuple[K, ...]
    removed: tuple[K, ...]


class KeyedTasks(Generic[K, S]):
    """One task per key while `run` is running.

    `work` makes the coroutine of a key from its settings; it runs until cancelled. An exception
    of one ends `run` with that exception.
    """

    def __init__(self, name: str, work: Callable[[K, S], Coroutine[Any, Any, None]]) -> None:
        """`name`: what the names of the tasks begin with."""
        self._name = name
        self._work = work
        self._settings: dict[K, S] = {}
        self._tasks: dict[K, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    @property
    def running(self) -> bool:
        """Whether `run` is running."""
        return self._group is not None

    def apply(self, wanted: Mapping[K, S]) -> Difference[K]:
        """Makes `wanted` the settings by key. Settings that compare equal are unchanged."""
        known = self._settings
        difference = Difference(
            added=tuple(key for key in wanted if key not in known),
            changed=tuple(key for key in wanted if key in known and known[key] != wanted[key]),
            removed=tuple(key for key in known if key not in wanted),
        )
        self._settings = dict(wanted)
        for key in (*difference.removed, *difference.changed):
            if (task := self._tasks.pop(key, None)) is not None:
                task.cancel()
        for key in (*difference.changed, *difference.added):
            self._start(key)
        return difference

    async def run(self) -> None:
        """Runs the tasks until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for key in self._settings:
                    self._start(key)
                await asyncio.Event().wait()  # keys may be added, even where there are none yet
        finally:
            self._group = None
            self._tasks.clear()

    def _start(self, key: K) -> None:
        if self._group is not None:
            work = self._work(key, self._settings[key])
            self._tasks[key] = self._group.create_task(work, name=f"{self._name}-{key}")
