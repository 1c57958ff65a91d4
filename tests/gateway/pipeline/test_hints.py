"""What own engines are told beside a request."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import structs

from gateway.domain.generation import EngineHints, Generation
from gateway.domain.slices import finish
from gateway.pipeline.hints import engine_hints, trace_headers
from gateway.upstream.openai.body import generation_body
from gateway.upstream.vllm.body import vllm_body
from scheduler.contract import SloClass
from tests.scheduler.requests_made import request

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_each_tenant_has_its_own_salt_and_always_the_same() -> None:
    mine = request("r1")
    salt = engine_hints(mine, (), isolated=True).cache_salt
    assert salt == engine_hints(request("r2"), (), isolated=True).cache_salt
    assert salt != engine_hints(structs.replace(mine, tenant="other"), (), isolated=True).cache_salt
    assert "team" not in salt
    assert engine_hints(mine, (), isolated=False).cache_salt == ""


def test_no_rank_bridges_the_gap_between_classes() -> None:
    def rank(slo_class: SloClass, priority: int) -> int:
        return engine_hints(request("r", slo_class, priority=priority), (), isolated=False).priority

    assert rank(SloClass.INTERACTIVE, 10) < rank(SloClass.INTERACTIVE, -10)
    assert rank(SloClass.INTERACTIVE, -10) < rank(SloClass.STANDARD, 10)
    assert rank(SloClass.STANDARD, -10) < rank(SloClass.BATCH, 10)


@pytest.mark.parametrize(
    ("metadata", "headers"),
    [
        ([("traceparent", PARENT)], {"traceparent": PARENT}),
        (
            [("traceparent", PARENT), ("tracestate", "a=1")],
            {"traceparent": PARENT, "tracestate": "a=1"},
        ),
        ([("traceparent", PARENT), ("tracestate", "a\nb")], {"traceparent": PARENT}),
        ([("traceparent", PARENT), ("tracestate", "x" * 600)], {"traceparent": PARENT}),
        ([("traceparent", PARENT + "\r\nX-Evil: 1")], {}),
        ([("traceparent", b"bytes")], {}),
        ([("tracestate", "a=1")], {}),
    ],
)
def test_a_trace_is_continued_if_it_is_one(
    metadata: list[tuple[str, str | bytes]], headers: dict[str, str]
) -> None:
    assert dict(trace_headers(metadata)) == headers


def test_only_own_engines_are_told() -> None:
    hints = EngineHints(cache_salt="salt", priority=7)
    made = Generation(request_id="r", model="m", input="x", max_output_tokens=1, hints=hints)
    own = msgspec.json.decode(finish(vllm_body(made, "m", 4)))
    assert (own["cache_salt"], own["priority"], own["stream_interval"]) == ("salt", 7, 4)
    far = msgspec.json.decode(finish(generation_body(made, "m")))
    assert not {"cache_salt", "priority", "stream_interval"} & far.keys()
    plain = msgspec.json.decode(finish(vllm_body(structs.replace(made, hints=EngineHints()), "m")))
    assert not {"cache_salt", "priority", "stream_interval"} & plain.keys()
