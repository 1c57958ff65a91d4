"""Deletes files and results whose time is over, in pieces that delay no rows of requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.accounting.ledger.database import Database, LedgerUnavailable
from gateway.batch.store.files import PIECE_FILES, remove_expired_files
from gateway.batch.store.jobs import remove_old_jobs
from gateway.config.batch import BatchConfig

log = logging.getLogger(__name__)
RETENTION_S = 600.0
PAUSE_S = 0.25
PIECE_JOBS = 4


async def delete_old(
    database: Database, bounds: Callable[[], BatchConfig], now_us: Callable[[], int]
) -> None:
    """Deletes what is old, until cancelled."""
    while True:
        is_more = False
        try:
            is_more = await delete_piece(database, bounds(), now_us())
        except LedgerUnavailable as error:
            log.warning("old batches wait for the ledger's database: %s", error)
        except Exception:  # the next look may succeed
            log.exception("old batches cannot be deleted")
        await asyncio.sleep(PAUSE_S if is_more else RETENTION_S)


async def delete_piece(database: Database, bounds: BatchConfig, now_us: int) -> bool:
    """Deletes some of what is old. Returns whether there may be more."""
    before_us = now_us - bounds.keep_us
    abandoned_us = now_us - round(2e6 * bounds.upload_s)
    jobs = await database.write(lambda tx: remove_old_jobs(tx, before_us, PIECE_JOBS))
    files = await database.write(lambda tx: remove_expired_files(tx, now_us, abandoned_us))
    return jobs >= PIECE_JOBS or files >= PIECE_FILES
