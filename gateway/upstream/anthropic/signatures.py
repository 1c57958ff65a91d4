"""Signed thinking of an Anthropic-shaped server: blocks that go back as they came.

The data of a signature is the JSON of one block, `thinking` with its text and signature, or
`redacted_thinking`. Blocks at the beginning of an answer belong to the message; a later block
belongs to the tool call that follows it, so that the order can be restored.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.domain.generation import MAX_SIGNATURE_BYTES, Signature
from gateway.upstream.anthropic import wire
from gateway.upstream.signatures import SignatureBounds


class Thinking(msgspec.Struct, tag="thinking", kw_only=True):
    """A block of thinking. The server checks the signature."""

    thinking: str
    signature: str


class RedactedThinking(msgspec.Struct, tag="redacted_thinking", kw_only=True):
    """A block of thinking that only the server can read."""

    data: str


Block = Thinking | RedactedThinking
_decode_block = msgspec.json.Decoder(Block).decode


def blocks_of(data: Iterable[bytes]) -> list[Block]:
    """The blocks to put into a message. Data that is no block is left out, because it comes from
    the client."""
    blocks: list[Block] = []
    for each in data:
        try:
            blocks.append(_decode_block(each))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return blocks


class _OpenBlock:
    """A block of thinking that arrives in pieces."""

    __slots__ = ("_signature", "_size_bytes", "_text")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._signature: list[str] = []
        self._size_bytes = 0

    def add(self, text: str | None, signature: str | None) -> None:
        for pieces, piece in ((self._text, text), (self._signature, signature)):
            if piece:
                self._size_bytes += len(piece)
                # One piece more than fits, so that the bounds find the block too large.
                if self._size_bytes - len(piece) <= MAX_SIGNATURE_BYTES:
                    pieces.append(piece)

    def whole(self) -> Thinking | None:
        """The block; None: it has no signature."""
        if not self._signature:
            return None
        return Thinking(thinking="".join(self._text), signature="".join(self._signature))


class ThinkingDecoder:
    """Collects the signed blocks of one answer. `origin`: the server; empty: none is kept."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._bounds = SignatureBounds()
        self._open: dict[int, _OpenBlock] = {}
        self._leading: list[Block] = []
        self._inner: list[Block] = []
        self._is_leading = True

    @property
    def left_out(self) -> bool:
        """Whether a signature exceeded a bound."""
        return self._bounds.left_out

    def start(self, index: int, block: wire.ContentBlock) -> None:
        """A block begins; it may be complete already."""
        if not self._origin:
            return
        if block.type == "redacted_thinking" and block.data:
            self._add(RedactedThinking(data=block.data))
        elif block.type == "thinking":
            self._open[index] = _OpenBlock()
            self._open[index].add(block.thinking, block.signature)
        elif block.type == "tool_use" or block.text:
            self._is_leading = False

    def add(self, index: int, delta: wire.Delta) -> None:
        """A piece of a block."""
        if delta.text:
            self._is_leading = False
        if index in self._open:
            self._open[index].add(delta.thinking, delta.signature)

    def stop(self, index: int) -> None:
        """A block ends. Thinking without a signature is not kept."""
        block = self._open.pop(index, None)
        whole = None if block is None else block.whole()
        if whole is not None:
            self._add(whole)

    def pop_leading(self, *, ended: bool) -> tuple[Signature, ...]:
        """Signatures of the message. `ended`: the answer has ended, so no tool call follows."""
        if ended:
            for index in sorted(self._open):
                self.stop(index)
            self._leading += self._inner
            self._inner = []
        blocks, self._leading = self._leading, []
        return self._kept(blocks)

    def pop_inner(self) -> tuple[Signature, ...]:
        """Signatures of the tool call that begins."""
        blocks, self._inner = self._inner, []
        return self._kept(blocks)

    def _add(self, block: Block) -> None:
        (self._leading if self._is_leading else self._inner).append(block)

    def _kept(self, blocks: list[Block]) -> tuple[Signature, ...]:
        if not blocks:
            return ()
        return self._bounds.kept(
            Signature(origin=self._origin, data=msgspec.json.encode(block)) for block in blocks
        )
