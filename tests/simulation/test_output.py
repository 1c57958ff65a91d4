"""What a simulated model says, and the tokens it says it in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation import tokenizer
from simulation.output import (
    FinishReason,
    Output,
    OutputText,
    StopRules,
    answer_seed,
    plan_output,
)

seeds = st.integers(0, 2**64 - 1)


def text_of(output: Output) -> str:
    return OutputText(output).advance(output.tokens)


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(), st.text())
def test_equal_beginnings_have_equal_tokens(common: str, rest: str) -> None:
    ids = tokenizer.encode(common + " ")
    longer = tokenizer.encode(f"{common} x{rest}")
    # The last space goes with the word that follows.
    assert longer[: len(ids) - 1] == ids[:-1]


def test_a_token_is_about_four_bytes_and_every_id_fits_32_bits() -> None:
    text = (
        "A mixture of experts routes every token to a few of its experts, so that a large model"
        " costs no more per token than a small one; which experts a batch touches decides its time."
    )
    assert 3.2 <= len(text) / len(tokenizer.encode(text)) <= 5.0
    assert tokenizer.VOCABULARY_TOKENS < 2**32
    assert tokenizer.token_bytes(tokenizer.VOCABULARY_TOKENS - 1)
    for wrong in (-1, tokenizer.VOCABULARY_TOKENS):
        with pytest.raises(ValueError, match="vocabulary"):
            tokenizer.token_bytes(wrong)


def test_special_tokens_are_not_made_from_text() -> None:
    assert tokenizer.MESSAGE_END_ID not in tokenizer.encode("<|im_end|>")
    assert tokenizer.decode([1, 2]) == "<|im_start|><|im_end|>"
    assert tokenizer.decode([1, 2], skip_special=True) == ""


@given(seeds)
def test_an_answer_as_a_message_has_the_tokens_that_were_generated(seed: int) -> None:
    output = plan_output(seed, StopRules(max_tokens=50, ignore_eos=True))
    assert tokenizer.encode(text_of(output)) == [output.token_id(i) for i in range(50)]


def test_the_request_fixes_the_answer() -> None:
    prompt = tokenizer.encode("Tell me a story.")
    rules = StopRules(max_tokens=60, ignore_eos=True)
    base = answer_seed(0, prompt, 7, 0)
    assert base == answer_seed(0, prompt, 7, 0)
    others = [
        answer_seed(1, prompt, 7, 0),
        answer_seed(0, prompt[:-1], 7, 0),
        answer_seed(0, prompt, 8, 0),
        answer_seed(0, prompt, None, 0),
        answer_seed(0, prompt, 7, 1),
    ]
    texts = {text_of(plan_output(seed, rules)) for seed in (base, *others)}
    assert len(texts) == 6


def test_lengths_are_drawn_around_the_mean() -> None:
    seeded = (answer_seed(0, [number], None, 0) for number in range(20_000))
    drawn = [plan_output(seed, StopRules(max_tokens=100_000)) for seed in seeded]
    assert all(output.finish_reason is FinishReason.STOP for output in drawn)
    mean = sum(output.tokens for output in drawn) / len(drawn)
    assert mean == pytest.approx(150, rel=0.03)


@given(seeds, st.integers(1, 300), st.integers(0, 300))
def test_why_an_answer_ends(seed: int, max_tokens: int, min_tokens: int) -> None:
    min_tokens = min(min_tokens, max_tokens)
    output = plan_output(seed, StopRules(max_tokens=max_tokens, min_tokens=min_tokens))
    assert min_tokens <= output.tokens <= max_tokens
    assert output.stop_reason is None
    last = output.token_id(output.tokens - 1)
    if output.finish_reason is FinishReason.STOP:
        assert last == tokenizer.MESSAGE_END_ID
        assert output.tokens > min_tokens
    else:
        assert output.tokens == max_tokens
        assert last != tokenizer.MESSAGE_END_ID
    assert plan_output(seed, StopRules(max_tokens=max_tokens, ignore_eos=True)).tokens == max_tokens


@given(seeds, st.integers(0, 30), st.booleans(), st.data())
def test_a_stop_string_ends_text_and_stream_alike(
    seed: int, min_tokens: int, keep: bool, data: st.DataObject
) -> None:
    plain = text_of(plan_output(seed, StopRules(max_tokens=60, ignore_eos=True)))
    start = data.draw(st.integers(0, len(plain) - 1))
    string = plain[start : start + data.draw(st.integers(1, 12))]
    rules = StopRules(
        max_tokens=60,
        min_tokens=min_tokens,
        ignore_eos=True,
        strings=(string, "never said"),
        keep_string=keep,
    )
    output = plan_output(seed, rules)
    text = text_of(output)
    if output.finish_reason is FinishReason.STOP:
        assert output.stop_reason == string
        assert output.tokens > min_tokens
        assert plain.startswith(text + ("" if keep else string))
        assert text.endswith(string) if keep else True
        if not min_tokens:
            assert len(text) == plain.index(string) + (len(string) if keep else 0)
    else:
        assert text == plain
        assert min_tokens, "the string is in the text"
    streamed = OutputText(output)
    pieces = [streamed.advance(tokens) for tokens in range(1, output.tokens + 1)]
    assert "".join(pieces) == text


def test_a_stop_token_ends_before_its_text() -> None:
    plain = plan_output(5, StopRules(max_tokens=20, ignore_eos=True))
    stop_id = plain.token_id(9)
    first = next(i for i in range(20) if plain.token_id(i) == stop_id)
    output = plan_output(5, StopRules(max_tokens=20, ignore_eos=True, token_ids={stop_id}))
    assert (output.tokens, output.stop_reason) == (first + 1, stop_id)
    assert text_of(output) == tokenizer.decode(plain.token_id(i) for i in range(first))


@given(seeds, st.integers(0, 100), st.integers(1, 20))
def test_candidates_are_led_by_what_is_said(seed: int, position: int, count: int) -> None:
    output = plan_output(seed, StopRules(max_tokens=200, ignore_eos=True))
    candidates = output.candidates(position, count)
    ids, logprobs = zip(*candidates, strict=True)
    assert ids[0] == output.token_id(position)
    assert len(set(ids)) == len(ids) == count
    assert list(logprobs) == sorted(logprobs, reverse=True)
    assert max(logprobs) < 0
