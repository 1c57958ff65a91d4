"""Lengths of answers: the prior, what is learnt, and what a key leans on."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.output_length import MAX_ROWS, MODEL_ROW, PRIOR_MEAN_TOKENS, OutputLengths

LONGEST = 100_000


def test_before_any_answer_the_prior_holds() -> None:
    lengths = OutputLengths()
    assert lengths.mean("", LONGEST) == pytest.approx(PRIOR_MEAN_TOKENS, rel=0.1)
    assert lengths.quantile("", np.exp(-2.0), LONGEST) == pytest.approx(512, rel=0.2)


def test_no_answer_is_expected_longer_than_it_may_be() -> None:
    lengths = OutputLengths()
    assert lengths.expected("", 50)[0] < 50
    assert lengths.expected("", 50)[1] == 50
    assert lengths.expected("", 1) == (1.0, 1)


def test_a_key_leans_on_the_model_until_it_has_answers_of_its_own() -> None:
    lengths = OutputLengths()
    for _ in range(500):
        lengths.learn("short", 16)
    model = lengths.mean("", LONGEST)
    assert lengths.mean("unknown", LONGEST) == model
    lengths.learn("long", 4096)
    one = lengths.mean("long", LONGEST)
    assert model < one < 1000
    for _ in range(500):
        lengths.learn("long", 4096)
    assert lengths.mean("long", LONGEST) == pytest.approx(4096, rel=0.25)
    assert lengths.mean("short", LONGEST) < 100


def test_survival_falls_and_follows_the_table() -> None:
    lengths = OutputLengths()
    for answer in (10, 100, 1000):
        lengths.learn("key", answer)
    tokens = np.array([1.0, 16.0, 256.0, 4096.0])
    survival = lengths.survival(np.full(4, float(lengths.row("key"))), tokens.copy())
    assert (np.diff(survival) < 0).all()
    assert survival == pytest.approx(lengths.table[lengths.row("key"), [0, 16, 32, 48]])


def test_new_answers_count_at_once_although_means_are_kept() -> None:
    lengths = OutputLengths()
    before = lengths.expected("", LONGEST)
    for _ in range(50):
        lengths.learn("", 8000)
    assert lengths.expected("", LONGEST) > before


def test_keys_beyond_the_bound_use_the_models_row() -> None:
    lengths = OutputLengths()
    rows = {lengths.row(f"key{i}") for i in range(MAX_ROWS + 5)}
    assert len(rows) == MAX_ROWS
    assert lengths.row("one more") == MODEL_ROW


def test_the_survival_of_the_first_token_is_that_of_one_token() -> None:
    lengths = OutputLengths()
    rows = [lengths.row(key) for key in ("a", "b", "")]
    for tokens in (1, 1, 30, 2000):
        lengths.learn("a", tokens)
        found = [lengths.survival_of_first(row) for row in rows]
        assert found == lengths.survival(np.array(rows, dtype=np.float64), np.ones(3)).tolist()
    assert found[0] < found[1]
