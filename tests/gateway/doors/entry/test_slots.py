"""A slot is held from the answer on, and by nobody who was cancelled before it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from gateway.doors.entry.slots import take_slot
from scheduler.limits.rate_limit import RateLimits, Refusal
from scheduler.port import SlotFreed

ONE = RateLimits(concurrent_requests=1)


class Asked:
    """A scheduler that answers when the test says."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        self.freed: list[SlotFreed] = []

    async def take_slot(self, _: str, __: RateLimits) -> Refusal | None:
        return await self.answer

    def send(self, message: SlotFreed) -> None:
        self.freed.append(message)


@pytest.mark.parametrize("granted", [True, False])
async def test_a_call_that_is_cancelled_while_it_asks_holds_nothing(*, granted: bool) -> None:
    port = Asked()
    call = asyncio.create_task(take_slot(port, "key", ONE))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    assert call.cancelled()
    assert not port.freed
    port.answer.set_result(None if granted else Refusal(limit="x", retry_after_s=1.0))
    await asyncio.sleep(0.01)
    assert port.freed == ([SlotFreed(key_id="key")] if granted else [])


async def test_a_question_that_fails_fails_the_call() -> None:
    port = Asked()
    port.answer.set_exception(ConnectionError("lost"))
    with pytest.raises(ConnectionError, match="lost"):
        await take_slot(port, "key", ONE)  # type: ignore[arg-type]
    assert not port.freed
