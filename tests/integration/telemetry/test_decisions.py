"""Quote and Explain, and the eviction of batch-class requests, on a real gateway."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from gateway.config.gateway import KeyConfig, KeyRole
from gateway.config.resolve.api_keys import key_sha256
from moegate.v1 import generation_pb2, inference_pb2
from tests import serving
from tests.integration.doors.test_gateway import UPSTREAM, engine
from tests.serving import METADATA, chat_request, read_stream

OPERATOR = "mg-operator-key"
OTHER = "mg-other-key"
KEYS = (
    KeyConfig(id="boss", sha256=key_sha256(OPERATOR), role=KeyRole.OPERATOR),
    KeyConfig(id="other", sha256=key_sha256(OTHER)),
)


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


async def test_a_quote_tells_every_candidate_and_starts_nothing() -> None:
    async with engine() as first, engine() as second, engine() as far:
        settings = serving.config(
            pools=[serving.pool([first.url, second.url], upstream_model=UPSTREAM)],
            remotes=[serving.remote(far.url, upstream_model=UPSTREAM)],
        )
        async with serving.serving(settings) as gateway:
            ask = inference_pb2.QuoteRequest(request=chat_request())
            quote = await gateway.stub.Quote(ask, metadata=METADATA)
            assert {c.placement for c in quote.candidates} == {"own/a", "own/b", "far"}
            best = quote.candidates[0]
            assert best.chosen
            assert best.kind == generation_pb2.PLACEMENT_KIND_LOCAL
            assert best.feasible
            assert 0 < best.ttft.ToNanoseconds() < 2e9
            assert best.marginal_nano_usd > 0
            assert sum(c.chosen for c in quote.candidates) == 1
            [remote] = [c for c in quote.candidates if c.placement == "far"]
            assert not remote.HasField("marginal_nano_usd"), "an unknown price is not zero"
            assert repr(gateway.gateway.scheduler.core) == "<Scheduler: 0 queued, 0 running>"


async def test_explain_is_for_the_own_requests_and_operators_see_all() -> None:
    async with engine() as own:
        settings = serving.config(
            pools=[serving.pool([own.url], upstream_model=UPSTREAM)], keys=KEYS
        )
        async with serving.serving(settings) as gateway:
            request = chat_request(request_id="mine")
            await read_stream(gateway.stub.Generate(request, metadata=METADATA))
            ask = inference_pb2.ExplainRequest(request_id="mine")
            told = await gateway.stub.Explain(ask, metadata=METADATA)
            assert (told.request_id, told.tier, told.placement) == ("mine", "local", "own/a")
            assert told.candidates[0].chosen
            assert told.prompt_tokens > 0
            await gateway.gateway.reload(settings, Path.cwd())
            ask = inference_pb2.ExplainRequest(request_id="mine", key_id="test")
            told = await gateway.stub.Explain(ask, metadata=bearer(OPERATOR))
            assert told.tier == "local", "a reload forgets nothing"
            for key, key_id, code in (
                (OTHER, "", grpc.StatusCode.NOT_FOUND),
                (OTHER, "test", grpc.StatusCode.PERMISSION_DENIED),
            ):
                ask = inference_pb2.ExplainRequest(request_id="mine", key_id=key_id)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await gateway.stub.Explain(ask, metadata=bearer(key))
                assert caught.value.code() is code


async def test_a_batch_request_is_taken_back_for_an_interactive_one_and_still_answers() -> None:
    async with engine(speed=2.0) as slow:
        settings = serving.config(
            pools=[serving.pool([slow.url], upstream_model=UPSTREAM, max_num_seqs=1)]
        )
        async with serving.serving(settings) as gateway:
            batch = chat_request(
                max_output_tokens=300,
                ignore_eos=True,
                slo=generation_pb2.Slo(slo_class=generation_pb2.SLO_CLASS_BATCH),
            )
            once = inference_pb2.GenerateOnceRequest(request=batch)
            running = gateway.stub.GenerateOnce(once, metadata=METADATA)
            scheduler = gateway.gateway.scheduler.core
            await serving.until(lambda: repr(scheduler) == "<Scheduler: 0 queued, 1 running>")
            seen = await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
            assert seen.done is not None
            answer = await running
            assert answer.done.usage.completion_tokens == 300
            outcomes = [attempt.outcome for attempt in answer.done.route.attempts]
            assert outcomes[0].startswith("evicted: a request of class interactive")
            assert outcomes[-1] == "ok"
            assert repr(scheduler) == "<Scheduler: 0 queued, 0 running>"
