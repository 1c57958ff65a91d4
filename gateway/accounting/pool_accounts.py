"""Writes the accounts of the pools to the ledger's database, by hour, day and month.

One meter of a deployment writes them: the row in table `meter` names its process. A process that
takes over continues from the sums of the one before; the time between counts as unobserved, and
what ran there as waste. Every booking is one transaction with the sums that it leads to, and is
refused where another process has taken over. So no time is booked twice or left out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from gateway.accounting.ledger.database import Database, Dialect, LedgerUnavailable, Tx
from gateway.accounting.ledger.leases import Owner
from gateway.accounting.meter_checkpoint import decode_checkpoint, encode_checkpoint
from gateway.accounting.rollups.calendar import day_of, month_of
from gateway.accounting.rollups.columns import Span
from scheduler.metering.hours import AMOUNTS
from scheduler.metering.meter import Meter, MeterCheckpoint, PoolHour

log = logging.getLogger(__name__)

BOOK_S = 15.0
"""Seconds between two bookings, and the most time that a crash leaves unobserved before it."""
SILENCE_S = 60.0
"""The meter of a gateway that has not booked for this long may be taken over by another one."""
_KEYS = ("span", "starts_hour", "pool")
_ADD = (
    f"INSERT INTO pool_account ({', '.join((*_KEYS, *AMOUNTS))})"
    f" VALUES ({', '.join(f'${i + 1}' for i in range(len(_KEYS) + len(AMOUNTS)))})"
    f" ON CONFLICT ({', '.join(_KEYS)}) DO UPDATE SET "
    + ", ".join(f"{name} = pool_account.{name} + excluded.{name}" for name in AMOUNTS)
)


class _State(msgspec.Struct, frozen=True, array_like=True):
    """What a process that takes over needs."""

    checkpoint: str
    """As the checkpoint file has it."""
    lost: list[tuple[str, int, dict[str, int]]]
    """Pool, hour and amounts that change because of what ran."""


@dataclass(frozen=True, slots=True)
class _Booking:
    number: int
    hours: Sequence[PoolHour]
    state: str


class PoolAccounts:
    """The accounts of one process. Made by `open_pool_accounts`."""

    def __init__(
        self, database: Database, owner: Owner, checkpoint: MeterCheckpoint | None, *, held: bool
    ) -> None:
        """`checkpoint`: where the meter goes on from; None: it begins. `held`: this process writes
        the accounts."""
        self.checkpoint = checkpoint
        self.held = held
        self.on_booked: Callable[[Sequence[PoolHour]], None] | None = None
        """Receives what each booking has added, once it is written."""
        self._database = database
        self._owner = owner
        self._booked = 0
        self._source: tuple[Meter, Callable[[], int]] | None = None
        self._unconfirmed: _Booking | None = None
        self._lock = asyncio.Lock()
        self._failed = False

    async def keep(self, meter: Meter, now_ns: Callable[[], int]) -> None:
        """Books until cancelled, and then once more."""
        self._source = meter, now_ns
        try:
            while self.held:
                await asyncio.sleep(BOOK_S)
                await self.book(meter, now_ns())
        finally:
            await self.book(meter, now_ns())

    async def catch_up(self) -> bool:
        """Books the time until now, before a report. Returns whether all of it is in the
        database."""
        if self._source is None:
            return False
        meter, now_ns = self._source
        return await self.book(meter, now_ns())

    async def book(self, meter: Meter, now_ns: int) -> bool:
        """Books the time until now. Returns whether all of it is in the database."""
        async with self._lock:
            if not self.held:
                return False
            try:
                if self._unconfirmed is not None:
                    await self._write(self._unconfirmed)
                self._booked += 1
                self._unconfirmed = _booking(self._booked, meter, now_ns)
                await self._write(self._unconfirmed)
                self._unconfirmed = None
            except LedgerUnavailable as error:
                if not self._failed:
                    log.error("the pools' accounts wait for the ledger: %s", error)
                self._failed = True
                return False
            self._failed = False
            return self.held

    async def _write(self, booking: _Booking) -> None:
        """Writes a booking once, however often it is tried. Raises LedgerUnavailable."""
        if not await self._database.write(lambda tx: _book(tx, self._owner.epoch, booking)):
            self.held = False
            log.error("another process keeps the pools' accounts now: this one books no more")
        elif self.on_booked is not None:
            self.on_booked(booking.hours)


def _booking(number: int, meter: Meter, now_ns: int) -> _Booking:
    hours = meter.take_hours(now_ns)
    lost = [(change.pool, change.hour, dict(change.amounts)) for change in meter.lost_hours()]
    state = _State(encode_checkpoint(meter.checkpoint(now_ns)).decode(), lost)
    return _Booking(number, hours, msgspec.json.encode(state).decode())


async def open_pool_accounts(database: Database, owner: Owner) -> PoolAccounts:
    """Takes the accounts over, unless another gateway writes them. Raises LedgerUnavailable."""
    held, checkpoint = await database.write(lambda tx: _take_over(tx, owner))
    if not held:
        log.warning(
            "another gateway on this database keeps the pools' accounts: this one does not, until "
            "it starts after the other has ended"
        )
    return PoolAccounts(database, owner, checkpoint, held=held)


async def _take_over(tx: Tx, owner: Owner) -> tuple[bool, MeterCheckpoint | None]:
    now_us = _now_us()
    await tx.run(
        "INSERT INTO meter (one, gateway, epoch, booking, seen_unix_us, state)"
        " VALUES (1, $1, '', 0, 0, '') ON CONFLICT (one) DO NOTHING",
        owner.gateway,
    )
    # A SQLite file has one gateway, whatever its name was.
    silent_us = now_us + 1 if tx.dialect is Dialect.SQLITE else now_us - round(SILENCE_S * 1e6)
    found = await tx.rows(
        "UPDATE meter SET gateway = $1, epoch = $2, booking = 0, seen_unix_us = $3"
        " WHERE gateway = $1 OR seen_unix_us < $4 RETURNING state",
        *(owner.gateway, owner.epoch, now_us, silent_us),
    )
    if not found:
        return False, None
    if not found[0][0]:
        return True, None
    state = msgspec.json.decode(found[0][0], type=_State)
    await _add(tx, [PoolHour(pool=p, hour=h, amounts=amounts) for p, h, amounts in state.lost])
    rest = msgspec.json.encode(_State(state.checkpoint, [])).decode()
    await tx.run("UPDATE meter SET state = $1", rest)
    return True, decode_checkpoint(state.checkpoint.encode())


async def _book(tx: Tx, epoch: str, booking: _Booking) -> bool:
    """Adds a booking; False: another process has taken over."""
    changed = await tx.run(
        "UPDATE meter SET booking = $2, seen_unix_us = $3, state = $4"
        " WHERE epoch = $1 AND booking = $2 - 1",
        *(epoch, booking.number, _now_us(), booking.state),
    )
    if changed:
        await _add(tx, booking.hours)
        return True
    # The answer of an earlier try may have been lost after it was committed.
    return [(epoch, booking.number)] == [*await tx.rows("SELECT epoch, booking FROM meter")]


async def _add(tx: Tx, hours: Sequence[PoolHour]) -> None:
    rows = [
        (int(span), starts, hour.pool, *(hour.amounts[name] for name in AMOUNTS))
        for hour in hours
        for span, starts in (
            (Span.HOUR, hour.hour),
            (Span.DAY, day_of(hour.hour)),
            (Span.MONTH, month_of(hour.hour)),
        )
    ]
    if rows:
        await tx.many(_ADD, rows)


def _now_us() -> int:
    return round(time.time() * 1e6)
