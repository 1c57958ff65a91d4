"""What a KEDA trigger may tell, and the words in which it is refused."""

from __future__ import annotations

import pytest

from gateway.doors.keda.trigger import BadTrigger, limits_of, pool_of
from scheduler.overflow.replica_count import ReplicaLimits


def test_all_fields_are_read_and_those_of_keda_are_not() -> None:
    found = limits_of(
        {
            "scalerAddress": "x:50053",
            "pool": "own",
            "minReplicas": "2",
            "maxReplicas": "8",
            "margin": "0.1",
            "scaleUpWindowSeconds": "60",
            "scaleDownWindowSeconds": "600",
        }
    )
    assert found == ReplicaLimits(
        least=2, most=8, margin=0.1, up_window_s=60.0, down_window_s=600.0
    )


def test_what_is_absent_has_a_default() -> None:
    assert limits_of({"maxReplicas": "3"}) == ReplicaLimits(least=1, most=3)
    assert pool_of({"pool": "own"}) == "own"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, r"metadata\.maxReplicas: it is absent"),
        ({"maxReplicas": "many"}, r"metadata\.maxReplicas: 'many': give a whole number"),
        ({"maxReplicas": "nan"}, r"'nan'"),
        ({"maxReplicas": "1e9"}, r"from 1 to 1000"),
        ({"maxReplicas": "2.5"}, r"a whole number"),
        ({"maxReplicas": "2", "minReplicas": "3"}, r"metadata\.minReplicas: '3': .* from 0 to 2"),
        ({"maxReplicas": "2", "margin": "-1"}, r"metadata\.margin: '-1': give a number"),
        ({"maxReplicas": "2", "scaleDownWindowSeconds": "9"}, r"from 30 to 7140"),
    ],
)
def test_bad_limits_are_refused_in_words(metadata: dict[str, str], message: str) -> None:
    with pytest.raises(BadTrigger, match=message):
        limits_of(metadata)


def test_a_trigger_must_name_its_pool() -> None:
    with pytest.raises(BadTrigger, match=r"metadata\.pool: .* name the pool"):
        pool_of({})
