"""The placements of a configuration, and the names of replicas and their ranks."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway.config.discovery import DiscoveryConfig
from gateway.config.gateway import GatewayConfig, GpuConfig, PoolConfig, ReplicaConfig
from gateway.fleet.placement_names import placement_names
from gateway.fleet.placements import pinned_ranks, placements_of
from scheduler.contract import Objective, PlacementKind
from scheduler.placement_state import Placement

POOL = PoolConfig(
    name="own",
    model="moe",
    replicas=(
        ReplicaConfig(name="a", url="http://a:8000"),
        ReplicaConfig(name="b", url="http://b:8000"),
    ),
    gpu=GpuConfig(type="H100", count=4),
    data_parallel_ranks=4,
    max_num_seqs=100,
    kv_capacity_tokens=4000,
    context_tokens=500,
    objective=Objective.COST,
)


def placed(**fields: object) -> list[Placement]:
    pool = msgspec.structs.replace(POOL, **fields)
    return placements_of(GatewayConfig(pools=(pool,)), Path())


def test_a_replica_is_one_placement_with_the_sequences_of_all_its_ranks() -> None:
    a, b = placed()
    assert (a.name, b.name) == ("own/a", "own/b")
    assert (a.kind, a.model, a.pool) == (PlacementKind.SELF_HOSTED, "moe", "own")
    assert (a.max_running, a.kv_capacity_tokens, a.context_tokens) == (400, 4000, 500)
    assert a.objective is Objective.COST
    assert (a.group, a.dp_rank) == ("", None)
    assert (a.replica, b.replica) == ("a", "b")


def test_sequences_that_nobody_states_are_assumed() -> None:
    assert {(p.max_running, p.max_running_assumed) for p in placed()} == {(400, False)}
    assumed = placed(max_num_seqs=None)
    assert {(p.max_running, p.max_running_assumed) for p in assumed} == {(1024, True)}


def test_pinned_ranks_are_placements_that_step_together() -> None:
    found = placed(pin_ranks=True)
    names = [f"own/{replica}/{rank}" for replica in "ab" for rank in range(4)]
    assert [p.name for p in found] == names
    assert [p.dp_rank for p in found] == [0, 1, 2, 3] * 2
    assert [p.replica for p in found] == [f"{name}/{rank}" for name in "ab" for rank in range(4)]
    assert {p.group for p in found} == {"own/a", "own/b"}
    assert {(p.max_running, p.kv_capacity_tokens) for p in found} == {(100, 1000)}
    assert {p.step_model.ranks for p in found if p.step_model} == {4}


def test_a_pool_in_dns_has_a_placement_for_each_place() -> None:
    discover = DiscoveryConfig(dns="vllm", port=8000, max_replicas=3)
    assert [p.name for p in placed(replicas=(), discover=discover)] == ["own/0", "own/1", "own/2"]
    both = placed(replicas=(), discover=discover, pin_ranks=True)
    assert len(both) == 12
    assert both[4].name == "own/1/0"


def test_an_unknown_capacity_stays_unknown() -> None:
    assert {p.kv_capacity_tokens for p in placed(kv_capacity_tokens=None, pin_ranks=True)} == {None}


def test_pinned_ranks_are_placements_of_their_replica() -> None:
    assert pinned_ranks(POOL) == 0
    assert pinned_ranks(msgspec.structs.replace(POOL, pin_ranks=True)) == 4
    assert placement_names("own/a", 0) == ("own/a",)
    assert placement_names("own/a", 2) == ("own/a/0", "own/a/1")
