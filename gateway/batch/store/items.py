"""Transactions on the items of offline jobs, and on their results. Those of a runner raise
ClaimLost if another runner has the job.

An item waits (0), is taken by a runner (1), or has ended (2). Only a taken one may run, so that
after a crash only these may have been charged without a result (`recovery.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.accounting.ledger.database import Tx
from gateway.batch.jobs import Item, ItemResult, JobTokens, StoredResult
from gateway.batch.store.jobs import Claim, check_claim

_ITEM = "number, custom_id, model, start_byte, size_bytes, place"
_RESULT = "seq, number, custom_id, is_ok, content"
PAGE_ROWS = 500
PAGE_BYTES = 256 * 1024
"""Most results, and bytes of them, of one page; a larger result is a page of its own."""


async def insert_items(tx: Tx, claim: Claim, items: Sequence[Item]) -> None:
    """Adds items of a job that is being validated. What an earlier runner has added is replaced."""
    await check_claim(tx, claim)
    await tx.many(
        f"INSERT INTO batch_item (job_id, {_ITEM}, state, taken_unix_us)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0) ON CONFLICT (job_id, number) DO UPDATE SET"
        " custom_id = excluded.custom_id, model = excluded.model,"
        " start_byte = excluded.start_byte, size_bytes = excluded.size_bytes,"
        " place = excluded.place",
        [
            (
                *(claim.job_id, item.number, item.custom_id, item.model),
                *(item.start_byte, item.size_bytes, item.place),
            )
            for item in items
        ],
    )


async def waiting_by_model(tx: Tx, job_id: str) -> dict[str, int]:
    """Items that nobody has taken, by model."""
    return dict(
        await tx.rows(
            "SELECT model, COUNT(*) FROM batch_item WHERE job_id = $1 AND state = 0 GROUP BY model",
            job_id,
        )
    )


async def take_items(tx: Tx, claim: Claim, model: str, limit: int, now_us: int) -> list[Item]:
    """Takes the next items of a model, in the order of their places."""
    await check_claim(tx, claim)
    found = await tx.rows(
        "UPDATE batch_item SET state = 1, taken_unix_us = $4 WHERE job_id = $1 AND number IN"
        " (SELECT number FROM batch_item WHERE job_id = $1 AND state = 0 AND model = $2"
        f" ORDER BY place LIMIT $3) RETURNING {_ITEM}",
        *(claim.job_id, model, limit, now_us),
    )
    return sorted((_item(row) for row in found), key=lambda item: item.place)


async def next_items(tx: Tx, job_id: str, model: str, after_place: int, limit: int) -> list[Item]:
    """The items of a model that nobody has taken, after a place, in the order of their places."""
    found = await tx.rows(
        f"SELECT {_ITEM} FROM batch_item WHERE job_id = $1 AND state = 0 AND model = $2"
        " AND place > $3 ORDER BY place LIMIT $4",
        *(job_id, model, after_place, limit),
    )
    return [_item(row) for row in found]


async def place_items(tx: Tx, claim: Claim, places: Sequence[tuple[int, int]]) -> None:
    """Gives items other places, by their numbers. Those that were taken meanwhile keep theirs."""
    await check_claim(tx, claim)
    await tx.many(
        "UPDATE batch_item SET place = $3 WHERE job_id = $1 AND number = $2 AND state = 0",
        [(claim.job_id, number, place) for number, place in places],
    )


async def taken_items(tx: Tx, job_id: str) -> list[tuple[Item, int]]:
    """Items that a runner has taken and not ended, with the Unix microsecond of that."""
    found = await tx.rows(
        f"SELECT {_ITEM}, taken_unix_us FROM batch_item WHERE job_id = $1 AND state = 1", job_id
    )
    return [(_item(row), row[6]) for row in found]


async def give_back(tx: Tx, claim: Claim, numbers: Sequence[int]) -> None:
    """Lets taken items wait again."""
    await check_claim(tx, claim)
    await tx.many(
        "UPDATE batch_item SET state = 0 WHERE job_id = $1 AND number = $2 AND state = 1",
        [(claim.job_id, number) for number in numbers],
    )


async def record_results(tx: Tx, claim: Claim, results: Sequence[ItemResult]) -> None:
    """Ends taken items, and adds their figures to the job."""
    tokens = [each.tokens for each in results]
    succeeded = sum(each.is_ok for each in results)
    await check_claim(tx, claim)
    [(ended,)] = await tx.rows(
        "UPDATE batch_job SET succeeded = succeeded + $2, failed = failed + $3,"
        " charged_nano_usd = charged_nano_usd + $4, unpriced = unpriced + $5,"
        " prompt_tokens = prompt_tokens + $6, cached_tokens = cached_tokens + $7,"
        " completion_tokens = completion_tokens + $8, reasoning_tokens = reasoning_tokens + $9,"
        " result_bytes = result_bytes + $10 WHERE job_id = $1 RETURNING succeeded + failed",
        claim.job_id,
        *(succeeded, len(results) - succeeded),
        sum(each.charged_nano_usd or 0 for each in results),
        sum(each.has_run and each.charged_nano_usd is None for each in results),
        *_sums(tokens),
        sum(len(each.content) + 1 for each in results),
    )
    first = ended - len(results) + 1
    await tx.many(
        f"INSERT INTO batch_result (job_id, {_RESULT}, charged_nano_usd)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        [
            (
                *(claim.job_id, first + i, each.number, each.custom_id, int(each.is_ok)),
                *(each.content, each.charged_nano_usd),
            )
            for i, each in enumerate(results)
        ],
    )
    await tx.many(
        "UPDATE batch_item SET state = 2 WHERE job_id = $1 AND number = $2",
        [(claim.job_id, each.number) for each in results],
    )


async def fail_waiting(
    tx: Tx, claim: Claim, limit: int, failed: Callable[[Item], ItemResult]
) -> int:
    """Ends some items that nobody has taken. `failed`: the result of an item. Returns how many;
    `limit` means that there may be more."""
    found = await tx.rows(
        f"SELECT {_ITEM} FROM batch_item WHERE job_id = $1 AND state = 0 ORDER BY number LIMIT $2",
        *(claim.job_id, limit),
    )
    if found:
        await record_results(tx, claim, [failed(_item(row)) for row in found])
    return len(found)


async def read_results(
    tx: Tx, job_id: str, after: int, *, by_number: bool, is_ok: bool | None
) -> list[StoredResult]:
    """Reads the results after a rank (`seq`, or the number of the item), at least one if there is
    one."""
    rank = "number" if by_number else "seq"
    which = f"job_id = $1 AND {rank} > $2 AND ($3 < 0 OR is_ok = $3)"
    wanted = -1 if is_ok is None else int(is_ok)
    sizes = await tx.rows(
        f"SELECT {rank}, LENGTH(content) FROM batch_result WHERE {which} ORDER BY {rank} LIMIT $4",
        *(job_id, after, wanted, PAGE_ROWS),
    )
    last, total = after, 0
    for at, size in sizes:
        total += size
        if total > PAGE_BYTES and last != after:
            break
        last = at
    found = await tx.rows(
        f"SELECT {_RESULT} FROM batch_result WHERE {which} AND {rank} <= $4 ORDER BY {rank}",
        *(job_id, after, wanted, last),
    )
    return [
        StoredResult(
            seq=row[0], number=row[1], custom_id=row[2], is_ok=bool(row[3]), content=bytes(row[4])
        )
        for row in found
    ]


async def remove_results(tx: Tx, job_id: str, size_bytes: int, *, is_ok: bool) -> None:
    """Deletes the results of an ended job that succeeded, or those that failed. `size_bytes`: what
    the tenant keeps no longer."""
    await tx.run("DELETE FROM batch_result WHERE job_id = $1 AND is_ok = $2", job_id, int(is_ok))
    await tx.run(
        "UPDATE batch_job SET result_bytes = result_bytes - $2 WHERE job_id = $1",
        *(job_id, size_bytes),
    )


def _item(row: Sequence[object]) -> Item:
    number, custom_id, model, start_byte, size_bytes, place = row[:6]
    return Item(
        number=number,  # type: ignore[arg-type]
        custom_id=custom_id,  # type: ignore[arg-type]
        model=model,  # type: ignore[arg-type]
        start_byte=start_byte,  # type: ignore[arg-type]
        size_bytes=size_bytes,  # type: ignore[arg-type]
        place=place,  # type: ignore[arg-type]
    )


def _sums(tokens: Sequence[JobTokens]) -> tuple[int, int, int, int]:
    return (
        sum(each.prompt for each in tokens),
        sum(each.cached for each in tokens),
        sum(each.completion for each in tokens),
        sum(each.reasoning for each in tokens),
    )
