"""Output of a simulated model: a function of seed and position, fixed before generation begins.

The engine only counts tokens. The text can be derived at any time, so a sequence that is
preempted or read late has the same text. Where a stop string or the end of the answer comes
is worked out when the request arrives.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from simulation.tokenizer import (
    FIRST_WORD_ID,
    MESSAGE_END_ID,
    PLAIN_WORDS,
    THINK_END_ID,
    is_word,
    token_bytes,
    word_text,
)

MEAN_ANSWER_TOKENS = 150.0
ANSWER_SIGMA = 0.8
"""Sigma of the lognormal answer length: between the 0.99 of the Azure conversation trace of 2023
and the shorter tails of assistants with a length limit."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_LENGTH_POSITION, _REASONING_POSITION = -1, -3
"""Positions whose random numbers draw the lengths of the answer and of the reasoning: no token has
them, or the ones below."""
_PUNCTUATED = 11
"""One word in so many is followed by a full stop, another one by a comma."""


class FinishReason(enum.StrEnum):
    """Why a sequence ended, in vLLM's words."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
    """Conditions that end an answer before its planned length.

    Attributes:
        max_tokens: most output tokens.
        min_tokens: output before which nothing ends it but `max_tokens`.
        ignore_eos: whether it runs up to `max_tokens`.
        strings: texts that end it.
        token_ids: tokens that end it.
        keep_string: whether the text includes the string that ended it.
        forced_ids: tokens of the answer, which is then fixed; empty: it is drawn.
        favourite_id: token that a bias makes the only one drawn; None: there is none.
        reasoning_tokens: most tokens of reasoning before the answer; None: it does not reason.
    """

    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    strings: Sequence[str] = ()
    token_ids: Collection[int] = ()
    keep_string: bool = False
    forced_ids: Sequence[int] = ()
    favourite_id: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One answer, complete from the start.

    Attributes:
        seed: 64 bits that fix every word.
        tokens: length in tokens, the end token included.
        finish_reason: why it ends.
        stop_reason: the stop string or the stop token id that ended it.
        text_chars: where its text is cut, in characters; None: not cut.
        held_chars: characters a stream holds back, as they may begin a stop string.
        forced_ids: tokens of the answer; empty: it is drawn.
        favourite_id: token of every position from `favourite_from`; None: they are drawn.
        reasoning_tokens: planned tokens of reasoning, which a closing tag follows; None: none.
    """

    seed: int
    tokens: int
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    text_chars: int | None = None
    held_chars: int = 0
    forced_ids: Sequence[int] = ()
    favourite_id: int | None = None
    favourite_from: int = 0
    reasoning_tokens: int | None = None

    def token_id(self, position: int) -> int:
        """The token at `position`, from 0."""
        is_last = position == self.tokens - 1
        if is_last and self.finish_reason is FinishReason.STOP and self.stop_reason is None:
            return MESSAGE_END_ID
        answer_position = position
        if self.reasoning_tokens is not None:
            if position == self.reasoning_tokens:
                return THINK_END_ID
            answer_position -= self.reasoning_tokens + 1
        if self.forced_ids and answer_position >= 0:
            return self.forced_ids[answer_position]
        if self.favourite_id is not None and position >= self.favourite_from:
            return self.favourite_id
        return _word_id(self.seed, position)

    def reasoned_tokens(self, tokens: int) -> int:
        """How many of the first `tokens` tokens are reasoning."""
        if self.reasoning_tokens is None:
            return 0
        made = min(tokens, self.reasoning_tokens)
        return made - 1 if made and self.token_id(made - 1) == MESSAGE_END_ID else made

    def candidates(self, position: int, count: int) -> list[tuple[int, float]]:
        """The token at `position` and its alternatives, `count` (at least 1) in all.

        Returns ids and log-probabilities.

        The generated token comes first and is the most likely.
        """
        draw = _mix(self.seed ^ _mix(position))
        logprob = -0.05 - 2.5 * _unit(draw)
        said = self.token_id(position)
        found = [(said, logprob)]
        rival = FIRST_WORD_ID + draw % PLAIN_WORDS
        while len(found) < count:
            logprob -= 0.25 + _unit(_mix(draw + len(found)))
            rival = FIRST_WORD_ID + (rival + 1 - FIRST_WORD_ID) % PLAIN_WORDS
            if rival == said:
                rival = FIRST_WORD_ID + (rival + 1 - FIRST_WORD_ID) % PLAIN_WORDS
            found.append((rival, logprob))
        return found


class OutputText:
    """Text of an answer that is still being made."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.tokens = 0
        self._text = ""
        self._sent_chars = 0
        self._half_character = b""

    def advance(self, tokens: int) -> str:
        """Text that becomes visible when `tokens` (at least as many as before) have been made."""
        output = self.output
        if output.forced_ids:  # its tokens may be parts of characters
            ids = (output.token_id(i) for i in range(self.tokens, tokens))
            data = b"".join(token_bytes(i) for i in ids if _has_text(i))
            new = self._characters(data, is_end=tokens == output.tokens)
        else:
            new = "".join(token_text(output, i) for i in range(self.tokens, tokens))
        self.tokens = tokens
        if not output.held_chars and output.text_chars is None:
            return new
        self._text += new
        end = len(self._text) - output.held_chars
        if tokens == output.tokens:
            end = len(self._text) if output.text_chars is None else output.text_chars
        start, self._sent_chars = self._sent_chars, max(end, self._sent_chars)
        return self._text[start : self._sent_chars]

    def _characters(self, data: bytes, is_end: bool) -> str:
        """Characters that are complete; a cut one at the end of the answer becomes U+FFFD."""
        data = self._half_character + data
        whole = data.decode(errors="ignore").encode()
        self._half_character = data[len(whole) :]
        return (data if is_end else whole).decode(errors="replace")


class ReasoningSplit:
    """Divides the text of an answer, as it grows, into reasoning and what follows it."""

    def __init__(self, output: Output) -> None:
        tokens = min(output.reasoning_tokens or 0, output.tokens)
        self._left_chars = sum(len(token_text(output, i)) for i in range(tokens))

    def advance(self, new_text: str) -> tuple[str, str]:
        """Returns the reasoning and the rest of the new text."""
        reasoning = new_text[: self._left_chars]
        self._left_chars -= len(reasoning)
        return reasoning, new_text[len(reasoning) :]


def token_text(output: Output, position: int) -> str:
    """Text of the token at `position`; special tokens have none."""
    token_id = output.token_id(position)
    if is_word(token_id):
        return word_text(token_id)
    return token_bytes(token_id).decode(errors="replace") if _has_text(token_id) else ""


def _has_text(token_id: int) -> bool:
    return token_id >= FIRST_WORD_ID and token_id != THINK_END_ID


def answer_seed(server_seed: int, prompt_ids: Sequence[int], seed: int | None, choice: int) -> int:
    """The 64 bits of one choice: the server's seed, the prompt, the request's own seed."""
    data = np.asarray(prompt_ids, dtype=np.int64).tobytes()
    salt = f"{server_seed}/{seed}/{choice}".encode()
    return int.from_bytes(blake2b(data, digest_size=8, key=salt[:64]).digest(), "big")


def plan_output(
    seed: int, rules: StopRules, mean_answer_tokens: float = MEAN_ANSWER_TOKENS
) -> Output:
    """The answer under `rules`: its length, and why it ends there."""
    tokens, reason = rules.max_tokens, FinishReason.LENGTH
    reasoning = _reasoning_tokens(seed, rules, mean_answer_tokens)
    lead = 0 if reasoning is None else reasoning + 1
    ends_late = rules.favourite_id == MESSAGE_END_ID or rules.favourite_id in rules.token_ids
    if rules.forced_ids:
        if lead + len(rules.forced_ids) < rules.max_tokens:
            tokens, reason = lead + len(rules.forced_ids) + 1, FinishReason.STOP
    elif rules.favourite_id == MESSAGE_END_ID and not rules.ignore_eos:
        if rules.min_tokens < rules.max_tokens:
            tokens, reason = rules.min_tokens + 1, FinishReason.STOP
    elif rules.favourite_id is None and not rules.ignore_eos:
        drawn = lead + _drawn_tokens(seed, mean_answer_tokens, _LENGTH_POSITION)
        drawn = max(drawn, rules.min_tokens + 1)
        if drawn <= rules.max_tokens:
            tokens, reason = drawn, FinishReason.STOP
    held = 0
    if rules.strings and not rules.keep_string:
        held = max(len(string) for string in rules.strings) - 1
    output = Output(
        seed=seed,
        tokens=tokens,
        finish_reason=reason,
        held_chars=held,
        forced_ids=rules.forced_ids,
        favourite_id=rules.favourite_id,
        favourite_from=rules.min_tokens if ends_late else 0,
        reasoning_tokens=reasoning,
    )
    if rules.strings or rules.token_ids:
        return _stopped(output, rules)
    return output


def _stopped(output: Output, rules: StopRules) -> Output:
    """The same, ended at the first stop string or stop token, found as vLLM finds it.

    After each token beyond `min_tokens` the new end of the text is searched; of several strings
    the one that ends first counts (vllm/v1/engine/detokenizer.py, check_stop_strings).
    """
    text = ""
    for position in range(output.tokens):
        is_after_minimum = position >= rules.min_tokens
        token_id = output.token_id(position)
        if is_after_minimum and token_id in rules.token_ids:
            return _cut(output, position + 1, token_id, len(text))
        before = len(text)
        text += token_text(output, position)
        if not is_after_minimum:
            continue
        found: tuple[int, int, str] | None = None
        for string in rules.strings:
            start = text.find(string, max(0, before + 1 - len(string)))
            end = start + len(string)
            if start >= 0 and (found is None or end < found[0]):
                found = (end, start, string)
        if found is not None:
            end, start, string = found
            return _cut(output, position + 1, string, end if rules.keep_string else start)
    return output


def _cut(output: Output, tokens: int, stop_reason: str | int, text_chars: int) -> Output:
    return replace(
        output,
        tokens=tokens,
        finish_reason=FinishReason.STOP,
        stop_reason=stop_reason,
        text_chars=text_chars,
    )


def _reasoning_tokens(seed: int, rules: StopRules, mean_tokens: float) -> int | None:
    """Tokens of reasoning: as many as an answer has. A model with a favourite token does not close
    it by itself."""
    most = rules.reasoning_tokens
    if most is None or rules.favourite_id is not None:
        return most
    return min(most, _drawn_tokens(seed, mean_tokens, _REASONING_POSITION))


def _drawn_tokens(seed: int, mean_tokens: float, position: int) -> int:
    """A lognormal length with that mean (Box-Muller on two draws of the seed)."""
    first = _unit(_mix(seed + position * _GOLDEN))
    second = _unit(_mix(seed + (position - 1) * _GOLDEN))
    normal = math.sqrt(-2.0 * math.log(1.0 - first)) * math.cos(2.0 * math.pi * second)
    mu = math.log(mean_tokens) - ANSWER_SIGMA**2 / 2.0
    return max(1, round(math.exp(mu + ANSWER_SIGMA * normal)))


def _word_id(seed: int, position: int) -> int:
    draw = _mix(seed + position * _GOLDEN)
    mark = (draw >> 40) % _PUNCTUATED
    variant = mark if mark in (1, 2) else 0
    return FIRST_WORD_ID + variant * PLAIN_WORDS + draw % PLAIN_WORDS


def _unit(draw: int) -> float:
    """In [0, 1)."""
    return (draw >> 11) / (1 << 53)


def _mix(value: int) -> int:
    """splitmix64 (Steele, Lea, Flood, OOPSLA 2014): 64 random bits of a counter."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
