"""What is learnt of texts and experts: texts of one domain point the same way."""

from __future__ import annotations

import random

import numpy as np

from scheduler.prefix.expert_affinity import (
    LEAST_OBSERVED,
    TABLE_ROWS,
    ExpertAffinity,
    rows_of,
)

COMMON = [f"common{number}" for number in range(300)]
DOMAINS = [[f"w{domain}x{number}" for number in range(300)] for domain in range(4)]
EXPERTS = 64


def text(chance: random.Random, domain: int) -> bytes:
    """Half of its words are those of all domains."""
    words = (*chance.choices(COMMON, k=60), *chance.choices(DOMAINS[domain], k=60))
    return " ".join(chance.sample(words, len(words))).encode()


def signature(chance: random.Random, domain: int) -> list[list[int]]:
    """Most of its experts are those of its domain."""
    own = range(16 * domain, 16 * domain + 16)
    return [[*chance.sample(own, 10), *chance.sample(range(EXPERTS), 6)] for _ in range(4)]


def learnt(requests: int) -> ExpertAffinity:
    chance, affinity = random.Random(1), ExpertAffinity()
    for _ in range(requests):
        domain = chance.randrange(4)
        affinity.observe(rows_of(text(chance, domain)), signature(chance, domain))
    return affinity


def test_texts_of_one_domain_point_the_same_way() -> None:
    table = learnt(100).table()
    assert table is not None
    chance = random.Random(2)
    domains = [chance.randrange(4) for _ in range(80)]
    directions = table.directions([text(chance, domain) for domain in domains])
    cosines = directions @ directions.T
    alike = np.equal.outer(domains, domains)
    assert np.median(cosines[alike]) > 0.7
    assert np.median(cosines[~alike]) < 0.1


def test_what_all_texts_begin_with_says_nothing() -> None:
    table = learnt(100).table()
    assert table is not None
    chance = random.Random(3)
    texts = [text(chance, domain) for domain in (0, 1) for _ in range(20)]
    system = text(chance, 2)
    directions = table.directions([system + b" " + each for each in texts])
    assert (directions[:20] @ directions[20:].T).mean() < -0.5


def test_too_little_is_not_told() -> None:
    assert learnt(LEAST_OBSERVED - 1).table() is None
    assert learnt(LEAST_OBSERVED).table() is not None
    affinity = ExpertAffinity()
    affinity.observe(rows_of(b"text"), [])
    affinity.observe(rows_of(b"text"), [[], []])
    assert affinity.observed == 0


def test_an_unknown_text_has_no_direction() -> None:
    table = learnt(100).table()
    assert table is not None
    unknown = [b"\x01", b"\x01", b"\x01"]
    assert not table.directions(unknown).any()


def test_what_was_told_stays_as_it_was() -> None:
    affinity = learnt(100)
    table = affinity.table()
    assert table is not None
    before = table.rows.copy()
    affinity.observe(rows_of(b"another text"), [[1, 2], [70_000]])
    assert np.array_equal(table.rows, before)


def test_rows_are_those_of_the_table_each_once() -> None:
    rows = rows_of(text(random.Random(4), 0) * 5)
    assert len(set(rows.tolist())) == len(rows)
    assert rows.max() < TABLE_ROWS
    assert len(rows_of(b"")) == 1
