"""What a call may ask for: looser figures than its class always, tighter ones only with a key that
may."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from gateway.auth.authenticator import Caller
from gateway.config.gateway import GatewayConfig
from gateway.config.limits import LimitsConfig
from gateway.domain.outcomes import RequestRefused
from gateway.pipeline.call import GenerateCall
from gateway.pipeline.settings import PipelineSettings, pipeline_settings
from gateway.pipeline.terms import check_output_tokens, priority_of, slo_of, time_left_s
from scheduler.contract import PlacementKind, RefusalReason, SloClass
from scheduler.fleet_view import FleetView, PlacementView, fleet_view
from tests.gateway.pipeline.rig import CALLER, call, generation

SETTINGS = pipeline_settings(GatewayConfig())
FAST = replace(CALLER, min_ttft_s=0.5, min_tpot_s=0.02, max_priority=4)


def asked(caller: Caller = CALLER, **fields: object) -> GenerateCall:
    return structs.replace(call(), caller=caller, **fields)


def terms(made: GenerateCall) -> None:
    slo_of(made, SETTINGS)
    priority_of(made)


def refusal(made: GenerateCall) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        terms(made)
    return caught.value


@pytest.mark.parametrize("field", ["ttft", "tpot"])
@pytest.mark.parametrize("slo_class", list(SloClass))
def test_a_class_may_be_loosened_and_not_tightened(field: str, slo_class: SloClass) -> None:
    figure = getattr(getattr(SETTINGS.slo_classes, slo_class.value), f"{field}_s")
    for allowed in (figure, figure * 2):
        made = slo_of(asked(slo_class=slo_class, **{f"{field}_s": allowed}), SETTINGS)
        assert getattr(made, f"{field}_s") == allowed
    error = refusal(asked(slo_class=slo_class, **{f"{field}_s": figure * 0.9}))
    assert error.reason is RefusalReason.PERMISSION_DENIED
    assert error.message.startswith(f"slo.{field}: {figure * 0.9:g} s is below {figure:g} s")
    assert f"ask for at least {figure:g} s, or leave it out" in error.message
    assert f"min_{field}_s of key key would allow less" in error.message


def test_a_key_may_tighten_down_to_its_figures() -> None:
    made = slo_of(asked(FAST, ttft_s=0.5, tpot_s=0.02), SETTINGS)
    assert (made.ttft_s, made.tpot_s, made.slo_class) == (0.5, 0.02, SloClass.INTERACTIVE)
    error = refusal(asked(FAST, tpot_s=0.019))
    assert "slo.tpot: 0.019 s is below 0.02 s, the figure of min_tpot_s of key key" in error.message
    assert "would allow" not in error.message


def test_a_keys_figure_above_that_of_the_class_forbids_nothing_that_the_class_has() -> None:
    slow = replace(CALLER, min_ttft_s=30.0)
    assert slo_of(asked(slow, ttft_s=2.0), SETTINGS).ttft_s == 2.0
    assert slo_of(asked(slow), SETTINGS).ttft_s == 2.0


def test_a_priority_above_0_needs_a_key_that_may() -> None:
    assert priority_of(asked(priority=-10)) == -10
    assert priority_of(asked(FAST, priority=4)) == 4
    assert "max_priority 0 of key key: ask for at most 0" in refusal(asked(priority=1)).message
    assert "5 is above max_priority 4" in refusal(asked(FAST, priority=5)).message


@pytest.mark.parametrize(
    ("remaining_s", "left_s"), [(None, 100.0), (3.0, 3.0), (500.0, 500.0), (1e9, 900.0)]
)
def test_a_deadline_is_cut_to_the_limit(remaining_s: float | None, left_s: float) -> None:
    limits = LimitsConfig(default_deadline_s=100.0, max_deadline_s=900.0)
    settings = pipeline_settings(GatewayConfig(limits=limits))
    assert time_left_s(asked(remaining_s=remaining_s), settings) == left_s


def fleet(*contexts: int | None) -> FleetView:
    return fleet_view(
        tuple(
            PlacementView(
                name=f"p{number}",
                kind=PlacementKind.SELF_HOSTED,
                model=generation().model,
                pool="own",
                replica="a",
                group="own/a",
                address="x",
                upstream_model="m",
                serving=True,
                reason="",
                context_tokens=context,
            )
            for number, context in enumerate(contexts)
        ),
        {},
    )


def settings_with(most: int) -> PipelineSettings:
    return pipeline_settings(GatewayConfig(limits=LimitsConfig(max_output_tokens=most)))


@pytest.mark.parametrize(
    ("tokens", "choices", "contexts", "words"),
    [
        (1000, 1, (2000,), ""),
        (1001, 1, (2000,), "max_output_tokens of the gateway is 1000: ask for at most 1000"),
        (251, 4, (2000,), "251 for each of 4 choices: limits.max_output_tokens of the gateway"),
        (251, 4, (2000,), "ask for at most 250"),
        (600, 1, (500, 512), "the context of model 'moe' has 512 tokens"),
        (600, 1, (500, None), ""),
        (600, 1, (), ""),
    ],
)
def test_output_tokens_have_bounds(
    tokens: int, choices: int, contexts: tuple[int | None, ...], words: str
) -> None:
    made = asked(generation=generation(max_output_tokens=tokens, choices=choices))
    if not words:
        check_output_tokens(made, settings_with(1000), fleet(*contexts))
        return
    with pytest.raises(RequestRefused) as caught:
        check_output_tokens(made, settings_with(1000), fleet(*contexts))
    error = caught.value
    assert (error.reason, error.subject) == (RefusalReason.OUT_OF_BOUNDS, "max_output_tokens")
    assert words in error.message


def test_a_key_has_its_own_bound_of_output_tokens() -> None:
    made = asked(
        replace(CALLER, max_output_tokens=3), generation=generation(max_output_tokens=1, choices=4)
    )
    with pytest.raises(RequestRefused, match=r"of key key is 3: ask for fewer choices"):
        check_output_tokens(made, settings_with(1000), fleet())
