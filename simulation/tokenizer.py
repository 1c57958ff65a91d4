"""A tokenizer without a vocabulary file: crude, consistent, and reversible.

A token is one of some hundred English words with its leading space, or up to 4 ASCII characters,
or up to 3 bytes of other text: about 4 bytes a token for English. Text is cut at its spaces
first, so equal beginnings of two texts get equal tokens up to the word in which they part: what a
prefix cache lives on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

SPECIAL_TEXTS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MESSAGE_START_ID = 1
MESSAGE_END_ID = 2
"""Ends a message, and so an answer: the end-of-sequence token."""
TAG_TEXTS = ("<think>", "</think>")
"""Tokens before and after reasoning. Their ids follow all others, as those of added tokens do."""

_WORD_LIST = """
a about after again all also always an and another any are as at back be because been before
best better between both but by can case change come could day do does down each easy end
even every example expert fact far fast few find first follow for four free from full gate
get give good great half have here high hold how if in into is it just keep kind know large
last later layer less let light like line little long look made make many may mean might
model more most move much must near need never new next no not now number of often old on
one only open or order other our out over own part path place plain point possible question
quick read real reason right run same say second see set short show side simple since small
so some step still such sure take ten than that the their them then there these they thing
think this those three through time to today together token too true try turn two under
until up use value very wait want was way we well were what when where which while who why
will with within without word work world would write year yes yet you your
"""
_WORDS = _WORD_LIST.split()

PLAIN_WORDS = len(_WORDS)
_WORD_TEXTS = tuple(f" {word}{mark}" for mark in ("", ",", ".") for word in _WORDS)
FIRST_WORD_ID = len(SPECIAL_TEXTS)
"""Ids of the plain words; the same with a comma and with a full stop follow, in this order."""

_WORD_IDS = {text: FIRST_WORD_ID + i for i, text in enumerate(_WORD_TEXTS)}
_ASCII_CHARS = 4
_RAW_BYTES = 3
_MEMO_CHARS = 48


def _offsets(first: int, base: int, longest: int) -> tuple[int, ...]:
    """Where the ids of pieces of each length begin, by length; the last is the end of all."""
    offsets = [first, first]
    for length in range(1, longest + 1):
        offsets.append(offsets[-1] + base**length)
    return tuple(offsets)


_ASCII_OFFSETS = _offsets(FIRST_WORD_ID + len(_WORD_TEXTS), 128, _ASCII_CHARS)
_RAW_OFFSETS = _offsets(_ASCII_OFFSETS[-1], 256, _RAW_BYTES)
THINK_START_ID, THINK_END_ID = range(_RAW_OFFSETS[-1], _RAW_OFFSETS[-1] + len(TAG_TEXTS))
VOCABULARY_TOKENS = THINK_END_ID + 1
"""Ids are below this: it is large, because a piece of any characters is a token, but < 2**32."""


def encode(text: str) -> list[int]:
    """Token ids of `text`; `decode` gives it back."""
    ids: list[int] = []
    known = _WORD_IDS.get
    separator = ""
    for word in text.split(" "):
        piece = separator + word
        separator = " "
        if not piece:
            continue
        word_id = known(piece)
        if word_id is not None:
            ids.append(word_id)
        elif len(piece) <= _MEMO_CHARS:
            ids += _memoised_pieces(piece)
        else:
            ids += _pieces(piece)
    return ids


def decode(ids: Iterable[int], *, skip_special: bool = False) -> str:
    """Text of the tokens; what is not UTF-8 becomes U+FFFD. Raises ValueError: no such token."""
    special = range(FIRST_WORD_ID)
    data = b"".join(token_bytes(i) for i in ids if not (skip_special and i in special))
    return data.decode(errors="replace")


def token_bytes(token_id: int) -> bytes:
    """The bytes that a token stands for. Raises ValueError: no such token."""
    if not 0 <= token_id < VOCABULARY_TOKENS:
        raise ValueError(f"token id {token_id} is out of vocabulary")
    if token_id < FIRST_WORD_ID:
        return SPECIAL_TEXTS[token_id].encode()
    if token_id < _ASCII_OFFSETS[0]:
        return _WORD_TEXTS[token_id - FIRST_WORD_ID].encode()
    if token_id < _ASCII_OFFSETS[-1]:
        return _digits(token_id, _ASCII_OFFSETS, 128)
    if token_id >= THINK_START_ID:
        return TAG_TEXTS[token_id - THINK_START_ID].encode()
    return _digits(token_id, _RAW_OFFSETS, 256)


def is_word(token_id: int) -> bool:
    """Whether the token is one of the words."""
    return 0 <= token_id - FIRST_WORD_ID < len(_WORD_TEXTS)


def word_text(token_id: int) -> str:
    """Text of a word token, with its leading space."""
    return _WORD_TEXTS[token_id - FIRST_WORD_ID]


def _pieces(piece: str) -> tuple[int, ...]:
    if piece.isascii():
        return _split(piece.encode(), _ASCII_CHARS, _ASCII_OFFSETS, 128)
    return _split(piece.encode(errors="replace"), _RAW_BYTES, _RAW_OFFSETS, 256)


_memoised_pieces = lru_cache(maxsize=1 << 16)(_pieces)


def _split(data: bytes, longest: int, offsets: Sequence[int], base: int) -> tuple[int, ...]:
    ids = []
    for start in range(0, len(data), longest):
        part = data[start : start + longest]
        value = 0
        for byte in part:
            value = value * base + byte
        ids.append(offsets[len(part)] + value)
    return tuple(ids)


def _digits(token_id: int, offsets: Sequence[int], base: int) -> bytes:
    length = next(n for n in range(len(offsets) - 1, 0, -1) if offsets[n] <= token_id)
    value = token_id - offsets[length]
    return bytes((value // base**place) % base for place in range(length - 1, -1, -1))
