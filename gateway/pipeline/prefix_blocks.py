"""Chained hashes of a prompt's blocks, by which the scheduler predicts prefix cache hits.

The prompt is serialised so that a longer conversation starts with the bytes of the shorter one:
tools first, then the messages in order, with images replaced by digests. Each block's hash covers
all blocks before it, and the first hash covers the cache salt. The work is divided into steps, so
that a long prompt does not hold the event loop.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

from gateway.domain.generation import Chat, Generation, Image
from gateway.domain.pooling import EmbeddingInput, PoolingInput
from gateway.domain.slices import Steps
from scheduler.prefix.token_blocks import TokenBlocks, chain, root

BLOCK_BYTES = 2048
"""Bytes per block: about 512 tokens of English text, and exactly 512 tokens of a prompt given as
token ids."""
MAX_BLOCKS = 2048
"""Limit on hashed blocks, 4 MiB of prompt. Later bytes are ignored."""
STEP_BLOCKS = 128
"""Blocks hashed in one step, about 0.3 ms."""
STEP_CHARACTERS = 65_536
"""Characters or token ids that are serialised in one step."""
MAX_TOKEN_BLOCKS = 16_384
"""Limit on hashed token blocks: 262,144 tokens in blocks of 16."""
_SEPARATOR = b"\x00"


class PromptBlocks(NamedTuple):
    """Hashes of a prompt.

    `blocks`: hashes of the full blocks. `block_tokens`: mean tokens per block, at least 1.
    `digest`: hash of the whole prompt, up to `MAX_BLOCKS`.
    """

    blocks: tuple[int, ...]
    block_tokens: int
    digest: bytes


def prefix_blocks(generation: Generation, salt: str, prompt_tokens: int) -> Steps[PromptBlocks]:
    """Returns the hashes of a prompt."""
    blocks: list[int] = []
    total_bytes = 0
    pending = bytearray()
    parent: bytes | None = None
    for piece in _pieces(generation):
        yield
        total_bytes += len(piece)
        if len(blocks) >= MAX_BLOCKS:
            continue
        pending += piece
        start = 0
        while len(pending) - start >= BLOCK_BYTES and len(blocks) < MAX_BLOCKS:
            end = start + BLOCK_BYTES
            if parent is None:
                parent = blake2b(f"{generation.model}\n{salt}".encode(), digest_size=8).digest()
            parent = blake2b(parent + pending[start:end], digest_size=8).digest()
            blocks.append(int.from_bytes(parent, "big"))
            start = end
            if len(blocks) % STEP_BLOCKS == 0:
                yield
        del pending[:start]
    block_tokens = round(prompt_tokens * BLOCK_BYTES / max(1, total_bytes))
    rest = (parent or b"") + b"%d " % total_bytes + bytes(pending[-BLOCK_BYTES:])
    if isinstance(generation.input, PoolingInput):
        blocks = []  # its inputs are sequences of their own
    return PromptBlocks(tuple(blocks), max(1, block_tokens), blake2b(rest, digest_size=16).digest())


def token_blocks(
    generation: Generation, salt: str, block_sizes: tuple[int, ...], adapter: str = ""
) -> Steps[tuple[TokenBlocks, ...]]:
    """Returns the token blocks of a prompt given as token ids, one entry per block size. Other
    prompts have none. `adapter`: the model of the generation, if it is a LoRA adapter.

    An engine always computes the last token, so a block that ends with it is never a hit.
    """
    prompt = generation.input
    if not isinstance(prompt, tuple):
        return ()
    found = []
    for size in block_sizes:
        names: list[int] = []
        parent = root(size, salt, adapter)
        end = min(MAX_TOKEN_BLOCKS, (len(prompt) - 1) // size) * size
        for start in range(0, end, STEP_BLOCKS * size):
            yield
            names.extend(chain(parent, prompt[start : min(end, start + STEP_BLOCKS * size)], size))
            parent = names[-1]
        found.append(TokenBlocks(block_tokens=size, names=tuple(names)))
    return tuple(found)


def _pieces(generation: Generation) -> Iterator[bytes]:
    """Yields the serialised prompt in order."""
    prompt = generation.input
    if isinstance(prompt, tuple):
        for start in range(0, len(prompt), STEP_CHARACTERS):
            yield _id_bytes(prompt[start : start + STEP_CHARACTERS])
    elif isinstance(prompt, Chat):
        yield from _chat_pieces(prompt)
    elif isinstance(prompt, PoolingInput):
        yield from _pooling_pieces(prompt)
    else:
        yield from _text_pieces(prompt)


def _pooling_pieces(pooling: PoolingInput) -> Iterator[bytes]:
    if isinstance(pooling, EmbeddingInput):
        inputs: tuple[str | tuple[int, ...], ...] = pooling.inputs
    else:
        inputs = (pooling.query, *pooling.documents)
    for each in inputs:
        yield _SEPARATOR
        if isinstance(each, str):
            yield from _text_pieces(each)
        else:
            yield _id_bytes(each)


def _id_bytes(token_ids: tuple[int, ...]) -> bytes:
    try:
        return array("I", token_ids).tobytes()
    except OverflowError:
        return array("Q", token_ids).tobytes()


def _text_pieces(text: str) -> Iterator[bytes]:
    for start in range(0, len(text), STEP_CHARACTERS):
        yield text[start : start + STEP_CHARACTERS].encode()


def _chat_pieces(chat: Chat) -> Iterator[bytes]:
    for tool in chat.tools:
        texts = (tool.name, tool.description, tool.parameters_json_schema)
        yield _SEPARATOR.join(text.encode() for text in texts) + _SEPARATOR
    for message in chat.messages:
        yield _SEPARATOR + message.role.value.encode() + _SEPARATOR
        for part in message.parts:
            if isinstance(part, Image):
                yield _image_digest(part)
            else:
                yield from _text_pieces(part)
        for call in message.tool_calls:
            yield _SEPARATOR + f"{call.name}\n".encode()
            yield from _text_pieces(call.arguments_json)


def _image_digest(image: Image) -> bytes:
    """Hashes only the beginning and the length of an image. Hashing whole images would block the
    event loop."""
    head = f"{image.media_type}\n{image.url}\n{len(image.data)}\n".encode()
    return blake2b(head + image.data[:65_536], digest_size=16).digest()
