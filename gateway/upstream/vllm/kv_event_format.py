"""vLLM's KV events on the wire (0.32): msgpack, of which only some fields are read.

A batch is an array of time, events and rank; an event is a map with its kind in "type". Unknown
kinds are skipped. So are tiers other than the memory of the GPU, and groups of layers that do not
keep the whole context (sliding windows, state spaces): the hits of a prompt are those of the first
group that keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from scheduler.prefix.token_blocks import (
    BlocksRemoved,
    BlocksStored,
    CacheChange,
    CacheReset,
    EngineHash,
)

SLICE_BLOCKS = 128
"""Most blocks of one change: hashing them holds the event loop for about 0.3 ms."""
MOST_BLOCK_TOKENS = 1 << 20
_WHOLE_CONTEXT = ("full_attention", "mla_attention", "sink_full_attention")
_IN_GPU = (None, "GPU")


class BadEvents(ValueError):
    """The payload holds no KV events of vLLM; the text says why."""


class _Batch(msgspec.Struct, array_like=True):
    ts: float
    events: list[msgspec.Raw]


class _Kind(msgspec.Struct):
    type: str


class _Stored(msgspec.Struct):
    block_hashes: list[EngineHash]
    token_ids: list[Annotated[int, Meta(ge=0)]]
    block_size: Annotated[int, Meta(ge=1, le=MOST_BLOCK_TOKENS)]
    parent_block_hash: EngineHash | None = None
    medium: str | None = None
    lora_id: int | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class _Removed(msgspec.Struct):
    block_hashes: list[EngineHash]
    medium: str | None = None
    group_idx: int | None = None


_BATCH, _KIND = msgspec.msgpack.Decoder(_Batch), msgspec.msgpack.Decoder(_Kind)
_STORED, _REMOVED = msgspec.msgpack.Decoder(_Stored), msgspec.msgpack.Decoder(_Removed)


class EventReader:
    """Reads the batches of one rank. `adapters`: clients' names of LoRA adapters, by those of the
    engine, where they differ."""

    def __init__(self, adapters: Mapping[str, str] | None = None) -> None:
        self._adapters = adapters or {}
        self._group: int | None = None

    def read(self, payload: bytes) -> list[CacheChange]:
        """The changes of a batch. Raises BadEvents."""
        found: list[CacheChange] = []
        try:
            for raw in _BATCH.decode(payload).events:
                match _KIND.decode(raw).type:
                    case "BlockStored":
                        found.extend(self._stored(_STORED.decode(raw)))
                    case "BlockRemoved":
                        removed = _REMOVED.decode(raw)
                        if removed.medium in _IN_GPU and removed.group_idx == self._group:
                            found.append(BlocksRemoved(hashes=tuple(removed.block_hashes)))
                    case "AllBlocksCleared":
                        found.append(CacheReset(known=True, emptied=True))
                    case _:
                        pass
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BadEvents(str(error)) from error  # the others: no UTF-8, nested too deeply
        return found

    def _stored(self, stored: _Stored) -> Iterator[BlocksStored]:
        if stored.medium not in _IN_GPU:
            return
        if stored.kv_cache_spec_kind not in (None, *_WHOLE_CONTEXT):
            return
        if self._group is None:
            self._group = stored.group_idx
        if stored.group_idx != self._group:
            return
        count, size = len(stored.block_hashes), stored.block_size
        if len(stored.token_ids) != count * size:
            # Some blocks of the range are not cached: the tokens of a hash are not known.
            plain, salt = 0, None
        else:
            plain, salt = _plain(stored)
        parent = stored.parent_block_hash
        adapter = stored.lora_name or ""
        for start in (*range(0, plain, SLICE_BLOCKS), *range(plain, count, SLICE_BLOCKS)):
            end = min(start + SLICE_BLOCKS, plain if start < plain else count)
            hashes = stored.block_hashes[start:end]
            yield BlocksStored(
                hashes=tuple(hashes),
                parent=parent,
                token_ids=stored.token_ids[start * size : end * size],
                block_tokens=size,
                salt=salt if start < plain else None,
                adapter=self._adapters.get(adapter, adapter),
            )
            parent = hashes[-1]


def _plain(stored: _Stored) -> tuple[int, str | None]:
    """Number of leading blocks that are identified by tokens, an adapter and a salt alone, and the
    salt. vLLM names an adapter first in the keys of each of its blocks."""
    keys, adapter = stored.extra_keys, stored.lora_name
    if keys is None or (stored.lora_id is not None and adapter is None):
        return 0, None
    if len(keys) != len(stored.block_hashes):
        return 0, None
    salt = ""
    for i, key in enumerate(keys):
        if adapter is not None:
            if not key or key[0] != adapter:
                return i, salt
            key = key[1:]
        match key:
            case None | []:
                continue
            case [str(text)] if i == 0 and stored.parent_block_hash is None:
                salt = text
            case _:
                return i, salt
    return len(keys), salt
