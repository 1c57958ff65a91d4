"""Reading of the plugin's answers, as the plugin writes them and garbled."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.vllm.steps_feed import BadFeed, parse_steps
from moegate.vllm_plugin.feed import Entry, ExpertStep, Feed, FinishedRequest, Signature, Step

STEP = Step(
    engine=1,
    at_s=0.0,
    prefill_requests=1,
    prefill_tokens=30,
    prompt_tokens=40,
    decode_requests=3,
    decode_tokens=6,
    output_tokens=4,
    elapsed_s=0.02,
    period_s=0.03,
    dummy=False,
    running=4,
    waiting=0,
    kv_usage=0.5,
    preemptions=2,
)
REQUEST = FinishedRequest(0, 0.0, "chatcmpl-agent-7", "stop", 9, 0, 4, 0, 0.1, 0.2, 0.3, 0.1)


EXPERTS = ExpertStep(engine=1, at_s=0.0, tokens=5, prefill_tokens=2, distinct=7.5, load=[12.0, 8.0])
SIGNATURE = Signature(engine=1, id="chatcmpl-agent-7", tokens=30, experts=[[3, 1], [0]])
MOE = {"experts": 16, "experts_per_token": 4, "layers": 2}


def written(*entries: Entry, moe: dict[str, int] | None = None) -> dict[str, Any]:
    feed = Feed()
    feed.moe = moe
    for entry in entries:
        feed.add(entry)
    read: dict[str, Any] = json.loads(feed.answer([]))
    read["now_s"] = 5.0
    return read


def dumped(answer: object) -> bytes:
    return json.dumps(answer).encode()


def test_what_the_plugin_writes_is_read() -> None:
    answer = parse_steps(dumped(written(STEP, REQUEST)), 100.0)
    [step] = answer.steps
    assert (step.rank, step.at_s, step.took_s, step.sequences) == (1, 95.0, 0.03, 3)
    assert (step.prefills, step.prefill_tokens, step.prompt_tokens) == (1, 30, 40)
    assert (step.decode_tokens, step.output_tokens, step.preemptions) == (6, 4, 2)
    [request] = answer.requests
    assert (request.request_id, request.queued_s, request.prefill_s, request.decode_s) == (
        *("agent-7", 0.1, 0.2, 0.3),
    )
    assert (answer.next, answer.processes, answer.lost, answer.more) == (2, 1, 0, False)


def test_experts_are_read_where_they_are_counted() -> None:
    answer = parse_steps(dumped(written(STEP, EXPERTS, SIGNATURE, moe=MOE)), 100.0)
    assert (len(answer.steps), answer.next) == (1, 3)
    told = answer.experts
    assert told is not None
    assert (told.experts, told.experts_per_token) == (16, 4)
    [step] = told.steps
    assert (step.tokens, step.prefill_tokens, step.distinct) == (5, 2, 7.5)
    assert step.load == (12.0, 8.0)
    [signature] = answer.signatures
    assert (signature.request_id, signature.experts) == ("agent-7", ((3, 1), (0,)))
    no_ranks = parse_steps(dumped(written(EXPERTS._replace(load=None), moe=MOE)), 100.0).experts
    assert no_ranks is not None
    assert no_ranks.steps[0].load == ()
    assert parse_steps(dumped(written(STEP, EXPERTS)), 100.0).experts is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("moe", {"experts": 0, "experts_per_token": 4}),
        ("moe", {"experts": 4, "experts_per_token": 8}),
        ("moe", [1]),
        ("expert_fields", "tokens"),
        ("expert_fields", ["tokens"]),
        ("expert_steps", [[0, 0.0, -5, 0, 7.5, None]]),
        ("expert_steps", [[0, 0.0, 5, 0, 7.5, ["x"]]]),
        ("expert_steps", [[0, 0.0, 5, 0, 7.5, [1.0] * 5000]]),
        ("expert_steps", {"a": 1}),
    ],
)
def test_garbled_experts_cost_the_experts_only(name: str, value: object) -> None:
    answer = written(STEP, EXPERTS, moe=MOE)
    answer[name] = value
    read = parse_steps(dumped(answer), 100.0)
    assert read.experts is None
    assert len(read.steps) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("signature_fields", ["id"]),
        ("signatures", [[1, "chatcmpl-a", 3, [[70_000]]]]),
        ("signatures", [[1, "chatcmpl-a", 3, [[-1]]]]),
        ("signatures", [[1, "chatcmpl-a", 3, [["x"]]]]),
        ("signatures", [[1, "chatcmpl-a", 3, [list(range(65))]]]),
        ("signatures", [[1, "chatcmpl-a", 3, [[0]] * 17]]),
        ("signatures", [[1, "not an id of the gateway", 3, [[0]]]]),
        ("signatures", {"a": 1}),
    ],
)
def test_garbled_signatures_cost_the_signatures_only(name: str, value: object) -> None:
    answer = written(STEP, EXPERTS, SIGNATURE, moe=MOE)
    answer[name] = value
    read = parse_steps(dumped(answer), 100.0)
    assert read.signatures == ()
    assert read.experts is not None
    assert len(read.steps) == 1


@pytest.mark.parametrize(
    ("name", "request_id"),
    [
        ("chatcmpl-a-1", "a-1"),
        ("cmpl-a-1-0", "a-1"),
        ("2_chatcmpl-a", "a"),
        ("1_cmpl-a-0", "a"),
        ("generate-tokens-a", None),
        ("", None),
    ],
)
def test_the_gateways_id_is_found_in_the_engines(name: str, request_id: str | None) -> None:
    answer = parse_steps(dumped(written(REQUEST._replace(id=name))), 0.0)
    assert [one.request_id for one in answer.requests] == ([request_id] if request_id else [])


def test_steps_without_a_time_of_their_own_are_left_out() -> None:
    prefill = STEP._replace(decode_requests=0, decode_tokens=0, period_s=None)
    entries = (STEP._replace(dummy=True), STEP._replace(period_s=None), prefill)
    [step] = parse_steps(dumped(written(*entries)), 10.0).steps
    assert (step.sequences, step.took_s) == (0, 0.02)


def test_further_columns_and_fields_are_ignored() -> None:
    answer = written(STEP)
    answer["step_fields"].insert(0, "experts")
    answer["steps"][0].insert(0, [1, 2])
    answer["later"] = {}
    assert parse_steps(dumped(answer), 10.0).steps[0].sequences == 3


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    answer = written(STEP, REQUEST)
    change(answer)
    return dumped(answer)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"[" * 100_000,
        changed(lambda answer: answer.update(format=2)),
        changed(lambda answer: answer.update(instance="a b&c")),
        changed(lambda answer: answer.update(next=-1)),
        changed(lambda answer: answer.update(steps=[["x"]])),
        changed(lambda answer: answer["steps"][0].__setitem__(9, -0.5)),
        changed(lambda answer: answer["steps"][0].__setitem__(13, 1e9)),
        changed(lambda answer: answer["step_fields"].clear()),
    ],
)
def test_what_cannot_be_is_refused(text: bytes) -> None:
    with pytest.raises(BadFeed):
        parse_steps(text, 10.0)


@given(st.binary())
def test_no_bytes_raise_anything_else(text: bytes) -> None:
    with pytest.raises(BadFeed):
        parse_steps(text, 0.0)
