"""`--fault` and the draw: what is parsed, what is refused, and that the draw repeats."""

from __future__ import annotations

import math

import pytest

from moegate.simulated_vllm.fault_effects import truncated
from moegate.simulated_vllm.faults.draws import Drawn, FaultDraws, is_drawn
from moegate.simulated_vllm.faults.flags import parse_fault, parse_faults
from moegate.simulated_vllm.faults.kinds import OWN_KEYS, Fault, FaultKind, Faults


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("refuse", Fault(kind=FaultKind.REFUSE)),
        ("delay:seconds=2", Fault(kind=FaultKind.DELAY, seconds=2.0)),
        (
            "cut:after_tokens=5,probability=0.1,seed=3",
            Fault(kind=FaultKind.CUT, after_tokens=5, probability=0.1, seed=3),
        ),
        (
            "silence:after_tokens=3,first=2",
            Fault(kind=FaultKind.SILENCE, after_tokens=3, first=2),
        ),
        ("error", Fault(kind=FaultKind.ERROR)),
        ("malformed:after_tokens=0", Fault(kind=FaultKind.MALFORMED, after_tokens=0)),
        (
            "status:code=429,retry_after_seconds=7",
            Fault(kind=FaultKind.STATUS, code=429, retry_after_seconds=7),
        ),
        ("crash:after_seconds=2.5", Fault(kind=FaultKind.CRASH, after_seconds=2.5)),
        ("unhealthy", Fault(kind=FaultKind.UNHEALTHY)),
        ("drain:after_seconds=30", Fault(kind=FaultKind.DRAIN, after_seconds=30.0)),
    ],
)
def test_values_of_the_flag(value: str, fault: Fault) -> None:
    assert parse_fault(value) == fault
    assert parse_faults([value, "cut"]).faults == (fault, Fault(kind=FaultKind.CUT))


def test_every_kind_has_its_keys() -> None:
    assert set(OWN_KEYS) == set(FaultKind)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", '"" is no fault: there are refuse, delay, cut,'),
        ("cutt", '"cutt" is no fault: did you mean "cut"?'),
        ("cut:", "nothing follows the colon: leave it out or give key=value"),
        ("cut:after_tokens", '"after_tokens" is not key=value'),
        ("cut:after_tokens=", '"after_tokens=" is not key=value'),
        ("cut:after_token=5", '"after_token" is no key of cut: did you mean "after_tokens"?'),
        ("drain:after_tokens=5", '"after_tokens" is no key of drain: there are probability'),
        ("cut:kind=delay", '"kind" is no key of cut:'),
        ("cut:first=1,first=2", "first is given twice: keep one"),
        ("cut:after_tokens=1.5", 'after_tokens must be a whole number, not "1.5"'),
        ("cut:after_tokens=-1", "after_tokens must not be negative or endless, but is -1"),
        ("cut:probability=often", 'probability must be a number, not "often"'),
        ("cut:probability=0", "probability must be above 0 and at most 1, not 0.0"),
        ("cut:probability=nan", "probability must be above 0 and at most 1, not nan"),
        ("cut:first=0", "first must be at least 1 request, not 0"),
        ("cut:after_seconds=inf", "after_seconds must not be negative or endless, but is inf"),
        ("refuse:seconds=0", "seconds must be above 0 and not endless, but is 0.0"),
        ("delay", "delay needs seconds, as in delay:seconds=2"),
        ("status", "status needs a code, as in status:code=503"),
        ("status:code=200", "code must be an error status, 400 to 599, not 200"),
        ("crash", "crash needs after_tokens or after_seconds, as in crash:after_tokens=9"),
    ],
)
def test_what_is_wrong_with_a_value_is_told(value: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^--fault ") as caught:
        parse_fault(value)
    assert str(caught.value).startswith(f"--fault {value}: {message}")


def test_a_fault_takes_only_its_own_fields() -> None:
    with pytest.raises(ValueError, match="cut takes no code, only after_tokens, probability"):
        Fault(kind=FaultKind.CUT, code=500)


def met(fault: Fault, requests: int = 1000) -> list[int]:
    return [number for number in range(requests) if is_drawn(fault, number)]


def test_the_draw_repeats_by_seed_and_has_its_probability() -> None:
    fault = parse_fault("cut:probability=0.1,seed=3")
    assert met(fault) == met(fault)
    assert 70 <= len(met(fault)) <= 130
    assert met(fault) != met(parse_fault("cut:probability=0.1,seed=4"))
    assert met(fault) != met(parse_fault("error:probability=0.1,seed=3"))
    assert met(parse_fault("cut")) == list(range(1000))


def test_only_the_first_requests_meet_a_fault() -> None:
    assert met(parse_fault("cut:first=3")) == [0, 1, 2]
    some = parse_fault("cut:probability=0.5,first=10")
    assert met(some) == [n for n in met(parse_fault("cut:probability=0.5")) if n < 10]


def test_a_fault_counts_requests_from_its_begin_whatever_stands_before_it() -> None:
    late = parse_fault("error:first=2,after_seconds=10")
    draws = FaultDraws(Faults((parse_fault("cut:first=1"), late)), 100.0)
    times = (100.0, 109.9, 110.0, 111.0, 112.0)
    kinds = [drawn.fault and drawn.fault.kind for drawn in map(draws.draw, times)]
    assert kinds == ["cut", None, "error", "error", None]
    alone = FaultDraws(parse_faults(["cut:probability=0.2"]), 0.0)
    second = FaultDraws(parse_faults(["error:probability=0.2", "cut:probability=0.2"]), 0.0)
    for _ in range(200):
        one, two = alone.draw(0.0).fault, second.draw(0.0).fault
        assert one is None or two is not None


def test_a_request_meets_a_delay_and_one_other_fault() -> None:
    draws = FaultDraws(parse_faults(["cut", "delay:seconds=2", "error", "delay:seconds=3"]), 0.0)
    assert draws.draw(0.0) == Drawn(2.0, parse_fault("cut"))
    assert FaultDraws(Faults(), 0.0).draw(0.0) == Drawn()


def test_faults_by_the_clock() -> None:
    draws = FaultDraws(parse_faults(["refuse:after_seconds=5,seconds=2"]), 100.0)
    times = (104.9, 105.0, 106.9, 107.0)
    assert [draws.refuses(now_s) for now_s in times] == [False, True, True, False]
    assert [draws.next_change_s(now_s) for now_s in times] == [105.0, 107.0, 107.0, math.inf]
    assert draws.draw(105.0).fault is None, "no request draws it"
    draws = FaultDraws(parse_faults(["crash:after_seconds=5", "crash:after_tokens=5"]), 0.0)
    assert [draws.is_crash_due(now_s) for now_s in (4.9, 5.0, 500.0)] == [False, True, True]
    assert draws.draw(0.0).fault == parse_fault("crash:after_tokens=5")


def test_tokens_are_cut_over_all_choices() -> None:
    assert truncated([3, 4], None) == [3, 4]
    assert truncated([3, 4], 8) == [3, 4]
    assert truncated([3, 4], 5) == [3, 2]
    assert truncated([3, 4], 2) == [2, 0]
