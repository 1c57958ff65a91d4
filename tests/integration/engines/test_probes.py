"""The life of a replica: into service after a real token, out when it fails, and back."""

from __future__ import annotations

import grpc
import pytest
from aiohttp import web

from scheduler.provenance import Provenance
from tests import serving
from tests.known import IDLE_METRICS
from tests.scripted import GOOD, ROLE, Scripted, upstreams
from tests.serving import METADATA, chat_request, read_stream


async def test_one_failed_look_is_forgiven_two_are_not() -> None:
    script = Scripted(frames=GOOD)
    async with upstreams(script) as gateway:
        [state] = gateway.gateway.scheduler.core.placements
        script.metrics_status = 500
        await serving.until(lambda: not state.serving)
        assert "500" in state.reason
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "500" in (caught.value.details() or "")
        script.metrics_status = 200
        await serving.until(lambda: state.serving)
        seen = await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
        assert seen.done is not None


async def test_metrics_that_are_none_take_a_replica_out_and_say_which_line() -> None:
    script = Scripted(frames=GOOD)
    async with upstreams(script) as gateway:
        [state] = gateway.gateway.scheduler.core.placements
        script.metrics = b'vllm:num_requests_running{engine="0"} -3\n'
        await serving.until(lambda: not state.serving)
        assert "num_requests_running" in state.reason


async def test_an_engine_that_hangs_behind_a_server_that_answers_leaves() -> None:
    hung, good = Scripted(frames=[ROLE], end="hang"), Scripted(frames=GOOD)
    async with upstreams(hung, good) as gateway:
        first, _ = gateway.gateway.scheduler.core.placements
        hung.completions = "hang"
        seen = await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
        assert seen.done is not None
        assert seen.done.route.replica == "b"
        await serving.until(lambda: not first.serving)
        assert "no output" in first.reason
        hung.completions = "end"
        await serving.until(lambda: first.serving)


async def test_what_others_run_on_a_replica_is_noticed() -> None:
    script = Scripted(frames=GOOD)
    async with upstreams(script) as gateway:
        [state] = gateway.gateway.scheduler.core.placements
        script.metrics = IDLE_METRICS.replace(b"0.0", b"5", 1)
        await serving.until(lambda: state.external_sequences == 5)
        script.metrics = IDLE_METRICS
        await serving.until(lambda: state.external_sequences == 0)
        assert script.looks > 2


class Stale(Scripted):
    """A server whose gauges say for ever that it is full, while it answers at once."""

    async def answer_metrics(self, request: web.Request) -> web.Response:
        tokens = b'vllm:generation_tokens_total{engine="0"} %d\n' % (self.probes + 2 * self.chats)
        self.metrics = IDLE_METRICS.replace(b"0.0", b"300", 1) + tokens
        return await super().answer_metrics(request)


async def test_a_replica_that_stale_gauges_starve_gets_requests_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Stale(frames=GOOD)
    async with upstreams(script) as gateway:
        [state] = gateway.gateway.scheduler.core.placements
        await serving.until(lambda: state.external_sequences == 300)
        await serving.until(lambda: state.external_sequences == 0)
        [shown] = (await gateway.gateway.scheduler.figures()).snapshot.placements
        assert (shown.gauges_source, shown.waiting_in_engine) == (Provenance.UNKNOWN, None)
        assert script.probes == 2, "one to enter service, one for the gauges"
        seen = await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
        assert seen.done is not None
        assert "300 requests run and 0 wait" in caplog.text
