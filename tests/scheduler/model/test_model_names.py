"""Names of models and adapters."""

from __future__ import annotations

from dataclasses import replace

from scheduler.adapters.adapter_report import AdapterReport
from scheduler.model.model_names import all_bases, serves
from scheduler.placement_state import PlacementState
from tests.scheduler.reload_made import local, remote
from tests.scheduler.requests_made import request


def state(name: str, model: str, *loaded: str, declared: tuple[str, ...] = ()) -> PlacementState:
    made = PlacementState(replace(local(name), model=model, adapters=declared))
    made.adapters.observe(AdapterReport(placement=name, loaded=frozenset(loaded)))
    return made


def test_adapters_are_known_by_the_configuration_and_by_what_servers_tell() -> None:
    bases = all_bases([state("a", "moe", "told", declared=("declared",)), state("b", "other")])
    assert bases == {"declared": "moe", "told": "moe"}


def test_a_told_name_never_takes_one_that_is_configured() -> None:
    first = state("a", "moe", "other", "far-model", "mine", "both")
    second = state("b", "other", "both", declared=("mine",))
    far = PlacementState(replace(remote("far"), model="far-model"))
    assert all_bases([first, second, far]) == {"mine": "other", "both": "moe"}


def test_a_remote_may_serve_a_declared_adapter() -> None:
    own = state("a", "moe", "x", declared=("x",))
    far = PlacementState(replace(remote("far"), model="x"))
    assert all_bases([own, far]) == {"x": "moe"}
    assert serves(far, request("r", model="x"))
    assert not serves(far, request("r", model="moe")), "it has the adapter only"


def test_a_server_serves_its_model_and_what_it_has_loaded() -> None:
    own = state("a", "moe", "x", declared=("y",))
    assert [serves(own, request("r", model=m)) for m in ("moe", "x", "y")] == [True, True, False]
