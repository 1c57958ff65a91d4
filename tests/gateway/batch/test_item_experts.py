"""What is learnt of the experts of items, by tenant and model, within bounds."""

from __future__ import annotations

import pytest

from gateway.batch.running import item_experts
from gateway.batch.running.item_experts import ItemExperts
from scheduler.engine_steps import ExpertSignature
from scheduler.prefix.expert_affinity import LEAST_OBSERVED


def signature(name: str) -> ExpertSignature:
    return ExpertSignature(request_id=name, experts=((1, 2), (3,)))


def learn(experts: ItemExperts, tenant: str, model: str, count: int) -> None:
    for number in range(count):
        name = f"{tenant}/{model}/{number}"
        experts.follow(tenant, model, name, b"text")
        experts.observe([signature(name)])


def test_each_item_is_learnt_once_by_tenant_and_model() -> None:
    experts = ItemExperts()
    assert not experts.is_told
    experts.follow("team", "moe", "a", b"text")
    experts.observe([signature("a"), signature("a"), signature("of nobody")])
    assert experts.is_told
    assert experts.observed("team", "moe") == 1
    assert experts.observed("team", "other") == experts.observed("others", "moe") == 0


def test_a_table_needs_enough_of_its_own_model() -> None:
    experts = ItemExperts()
    learn(experts, "team", "moe", LEAST_OBSERVED)
    learn(experts, "team", "other", LEAST_OBSERVED - 1)
    assert set(experts.tables("team", ["moe", "other", "third"])) == {"moe"}
    assert not experts.tables("others", ["moe"])


def test_one_tenant_does_not_push_out_what_another_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_experts, "MOST_FOLLOWED", 4)
    monkeypatch.setattr(item_experts, "MOST_LEARNT", 3)
    experts = ItemExperts()
    experts.follow("small", "moe", "mine", b"text")
    for number in range(10):
        experts.follow("large", "moe", f"other {number}", b"text")
    experts.observe([signature("mine"), signature("other 0"), signature("other 9")])
    assert (experts.observed("small", "moe"), experts.observed("large", "moe")) == (1, 1)
    for number in range(5):
        learn(experts, "large", f"model {number}", 1)
    assert experts.observed("small", "moe") == 1
    assert experts.observed("large", "model 4") == 1
    assert experts.observed("large", "model 0") == 0
