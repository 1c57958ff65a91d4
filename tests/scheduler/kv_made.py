"""vLLM's KV events for tests: chained blocks with its own names, encoded as vLLM does."""

from __future__ import annotations

from typing import Any

import msgspec

SIZE = 16


def engine_hash(token_ids: tuple[int, ...], salt: str = "") -> int:
    """Stands for vLLM's hash of the last block of these tokens."""
    return hash((token_ids, salt)) & ((1 << 64) - 1)


def stored(
    token_ids: tuple[int, ...], *, done: int = 0, salt: str = "", size: int = SIZE, **fields: Any
) -> dict[str, Any]:
    """The blocks of a prompt from block `done` on."""
    count = len(token_ids) // size
    extra: list[list[Any] | None] = [None] * (count - done)
    if salt and not done:
        extra[0] = [salt]
    return {
        "type": "BlockStored",
        "block_hashes": [
            engine_hash(token_ids[: (i + 1) * size], salt) for i in range(done, count)
        ],
        "parent_block_hash": engine_hash(token_ids[: done * size], salt) if done else None,
        "token_ids": list(token_ids[done * size : count * size]),
        "block_size": size,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": extra,
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
        **fields,
    }


def removed(token_ids: tuple[int, ...], salt: str = "", **fields: Any) -> dict[str, Any]:
    """The last block of these tokens."""
    return {
        "type": "BlockRemoved",
        "block_hashes": [engine_hash(token_ids, salt)],
        "medium": "GPU",
        "group_idx": 0,
        **fields,
    }


CLEARED: dict[str, Any] = {"type": "AllBlocksCleared"}


def batch(*events: dict[str, Any], rank: int = 0) -> bytes:
    return msgspec.msgpack.encode([1.5, list(events), rank])
