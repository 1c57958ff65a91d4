"""The order of items: each once, common prefixes together, likes beside likes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from scheduler.prefix.expert_affinity import ExpertAffinity, rows_of
from scheduler.prefix.item_order import LEAST_PREFIX_BYTES, order_items, sketch

DOMAINS = [[f"w{domain}x{number}" for number in range(300)] for domain in range(6)]


def switches(labels: Sequence[object]) -> int:
    """How often neighbours differ."""
    return sum(one != other for one, other in pairwise(labels))


def text(chance: random.Random, domain: int) -> bytes:
    return " ".join(chance.choices(DOMAINS[domain], k=120)).encode()


@given(st.lists(st.binary(max_size=700), max_size=30))
def test_each_item_has_one_place(texts: list[bytes]) -> None:
    assert sorted(order_items(texts)) == list(range(len(texts)))


def test_items_with_a_common_prefix_are_together() -> None:
    chance = random.Random(1)
    systems = [f"You are assistant {number}. ".encode() * 20 for number in range(4)]
    made = [(chance.randrange(4), chance.randrange(6)) for _ in range(400)]
    texts = [systems[system] + text(chance, domain) for system, domain in made]
    order = order_items(texts)
    assert switches([made[index][0] for index in order]) == 3


def test_a_longer_prefix_within_a_common_one_is_kept_together() -> None:
    chance = random.Random(2)
    system = b"You answer questions on documents. " * 20
    documents = [text(chance, number) * 2 for number in range(6)]
    made = [chance.randrange(6) for _ in range(120)]
    texts = [system + documents[document] + text(chance, 0)[:100] for document in made]
    assert switches([made[index] for index in order_items(texts)]) == 5


def test_likes_are_beside_likes() -> None:
    chance = random.Random(3)
    made = [chance.randrange(6) for _ in range(600)]
    texts = [text(chance, domain) for domain in made]
    arrival, ordered = switches(made), switches([made[index] for index in order_items(texts)])
    assert ordered < arrival / 4, (arrival, ordered)


def test_items_that_use_the_same_experts_are_together_whatever_words_they_share() -> None:
    chance = random.Random(6)
    common = [f"common{number}" for number in range(300)]

    def half_common(domain: int) -> bytes:
        return b" ".join((" ".join(chance.choices(common, k=120)).encode(), text(chance, domain)))

    affinity = ExpertAffinity()
    for number in range(100):
        experts = [[*range(8 * (number % 6), 8 * (number % 6) + 8)]]
        affinity.observe(rows_of(half_common(number % 6)), experts)
    made = [chance.randrange(6) for _ in range(300)]
    texts = [half_common(domain) for domain in made]
    by_sketch, by_experts = (
        switches([made[index] for index in order_items(texts, table)])
        for table in (None, affinity.table())
    )
    assert by_experts < 20 < by_sketch / 3, (by_experts, by_sketch)


def test_the_same_text_many_times() -> None:
    same = b"x" * (2 * LEAST_PREFIX_BYTES)
    assert sorted(order_items([same] * 50)) == list(range(50))
    assert sorted(order_items([same, same[:-1], same + b"y", b"", b"x"])) == list(range(5))


def test_sketches_of_likes_differ_in_few_bits() -> None:
    chance = random.Random(4)
    one = text(chance, 0)
    changed = one.replace(b"w0x1 ", b"w0x2 ")
    other = text(chance, 3)
    near = bin(sketch(one) ^ sketch(changed)).count("1")
    far = bin(sketch(one) ^ sketch(other)).count("1")
    assert near < 10 < far
    assert sketch(b"") == sketch(b"")
