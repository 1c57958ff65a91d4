"""The fuzz targets: each runs a few dozen examples, so that they cannot rot."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from tests.fuzz.fuzz import fuzz
from tests.fuzz.targets import TARGETS, Target

EXAMPLES = 40
SECONDS = 60.0


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_target_runs_and_finds_nothing(name: str) -> None:
    campaign = fuzz(TARGETS[name], SECONDS, seed=1, max_examples=EXAMPLES)
    assert campaign.findings == {}
    assert campaign.examples >= EXAMPLES / 2


def test_a_finding_is_shrunk_and_told_once_with_its_place() -> None:
    def check(number: int) -> None:
        assert number < 1000

    planted = Target(lambda: st.integers(0, 1 << 40), check)
    campaign = fuzz(planted, SECONDS, seed=1, max_examples=200)
    ((place, finding),) = campaign.findings.items()
    assert place.startswith("tests/repository/test_fuzz_targets.py:")
    assert place.endswith("in check")
    assert (finding.example, finding.seed) == (1000, 1)
    assert finding.error.startswith("AssertionError")
