"""Embed and Score through a gateway: own servers, and remotes when those are gone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace

import grpc
import pytest
from google.rpc import error_details_pb2
from msgspec import structs

from gateway.config.gateway import GatewayConfig, KeyConfig, PoolConfig, RemoteConfig, SecretConfig
from gateway.config.limits import ElementLimitsConfig, KeyLimitsConfig, LimitsConfig
from gateway.config.remote import RemoteApi
from gateway.config.resolve.api_keys import key_sha256
from gateway.config.tasks import Task
from moegate.simulated_vllm.config import ModelTask, SimulatedVllmConfig
from moegate.simulated_vllm.faults.kinds import Fault, FaultKind, Faults
from moegate.simulated_vllm.server import SimulatedVllm, simulated_vllm
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2, pooling_pb2
from scheduler.metering.settlement import SettledAttempt
from tests import serving
from tests.ledgers import a_nano_dollar_a_token
from tests.otlp_receiver import Receiver

TEXTS = ("a fox in the forest", "the capital of France", "a fox in the woods")
EMBEDS = SimulatedVllmConfig(
    served_model_name=serving.MODEL, task=ModelTask.EMBED, speed=20.0, noise_sigma=0.0
)


def embed_request(texts: Sequence[str] = TEXTS, **fields: object) -> pooling_pb2.EmbedRequest:
    return pooling_pb2.EmbedRequest(
        **{  # type: ignore[arg-type]
            "model": serving.MODEL,
            "texts": pooling_pb2.TextInputs(texts=texts),
            **fields,
        }
    )


def score_request(**fields: object) -> pooling_pb2.ScoreRequest:
    return pooling_pb2.ScoreRequest(
        **{  # type: ignore[arg-type]
            "model": serving.MODEL,
            "query": TEXTS[0],
            "documents": TEXTS[1:],
            **fields,
        }
    )


def pool(urls: Sequence[str], task: Task = Task.EMBED) -> PoolConfig:
    return structs.replace(serving.pool(urls), task=task)


def remote(url: str, task: Task = Task.EMBED) -> RemoteConfig:
    return structs.replace(serving.remote(url), task=task)


@contextlib.asynccontextmanager
async def embedding_gateway(
    config: SimulatedVllmConfig = EMBEDS, limits: LimitsConfig | None = None
) -> AsyncIterator[tuple[serving.Serving, SimulatedVllm, list[SettledAttempt]]]:
    """A gateway before one server that embeds."""
    settled: list[SettledAttempt] = []
    async with (
        embedding_settings(config, limits) as (settings, server),
        serving.serving(settings, sinks=(settled.append,)) as running,
    ):
        yield running, server, settled


@contextlib.asynccontextmanager
async def embedding_settings(
    config: SimulatedVllmConfig = EMBEDS, limits: LimitsConfig | None = None
) -> AsyncIterator[tuple[GatewayConfig, SimulatedVllm]]:
    """A server that embeds, and the configuration of a gateway before it."""
    task = Task(config.task.value)
    async with simulated_vllm(config) as server:
        yield serving.config(pools=[pool([server.url], task)], limits=limits), server


async def refusal(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_texts_become_one_vector_each_and_the_account_says_what_it_cost() -> None:
    async with embedding_gateway() as (running, server, settled):
        before = server.engine.counters.prompt_tokens
        response = await running.stub.Embed(
            embed_request(request_id="r-1"), metadata=serving.METADATA
        )
        computed = server.engine.counters.prompt_tokens - before
    vectors = [list(each.values) for each in response.embeddings]
    assert [len(vector) for vector in vectors] == [64, 64, 64]
    fox, capital, woods = vectors
    assert dot(fox, fox) == pytest.approx(1.0, abs=1e-5)
    assert dot(fox, woods) > dot(fox, capital)
    done = response.done
    assert done.request_id == "r-1"
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (computed, 0)
    assert not done.usage.estimated
    assert done.route.target == "own"
    assert done.route.kind == generation_pb2.PLACEMENT_KIND_LOCAL
    assert done.cost.metered_nano_usd > 0
    assert [part.kind for part in done.cost.parts] == [generation_pb2.TOKEN_KIND_UNCACHED_INPUT]
    assert done.timings.ttft.ToNanoseconds() > 0
    assert not done.timings.HasField("tpot")
    (attempt,) = settled
    assert attempt.metered_nano_usd == done.cost.metered_nano_usd
    assert attempt.usage is not None
    assert attempt.usage.completion_tokens == 0


async def test_token_ids_are_embedded_like_the_text_that_they_are_of() -> None:
    async with embedding_gateway() as (running, _, _):
        ids = pooling_pb2.TokenInputs(
            inputs=[
                chat_pb2.TokenInput(token_ids=[300, 301, 302]),
                chat_pb2.TokenInput(token_ids=[7]),
            ]
        )
        request = pooling_pb2.EmbedRequest(model=serving.MODEL, tokens=ids)
        response = await running.stub.Embed(request, metadata=serving.METADATA)
    assert len(response.embeddings) == 2
    assert response.done.usage.prompt_tokens == 4


async def test_documents_get_scores_in_their_order_from_either_kind_of_model() -> None:
    for task in (ModelTask.EMBED, ModelTask.SCORE):
        async with embedding_gateway(replace(EMBEDS, task=task)) as (running, _, _):
            response = await running.stub.Score(score_request(), metadata=serving.METADATA)
            models = await running.stub.ListModels(
                inference_pb2.ListModelsRequest(), metadata=serving.METADATA
            )
        capital, woods = response.scores
        assert woods > capital
        assert response.done.usage.completion_tokens == 0
        does = {inference_pb2.MODEL_TASK_SCORE}
        if task is ModelTask.EMBED:
            does.add(inference_pb2.MODEL_TASK_EMBED)
        assert set(models.models[0].tasks) == does


def dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_what_the_model_does_not_do_is_refused_with_the_call_that_it_needs() -> None:
    async with embedding_gateway() as (running, server, _):
        generate = inference_pb2.GenerateOnceRequest(request=serving.chat_request())
        error = await refusal(running.stub.GenerateOnce(generate, metadata=serving.METADATA))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        (violation,) = serving.detail(error, error_details_pb2.BadRequest).field_violations
        assert violation.field == "model"
        assert (
            "embeds and scores, it does not generate: call Embed or Score" in violation.description
        )
    async with (
        simulated_vllm(replace(EMBEDS, task=ModelTask.GENERATE)) as server,
        serving.serving(serving.config(pools=[serving.pool([server.url])])) as running,
    ):
        error = await refusal(running.stub.Embed(embed_request(), metadata=serving.METADATA))
        (violation,) = serving.detail(error, error_details_pb2.BadRequest).field_violations
        assert "generates, it does not embed: call Generate" in violation.description


async def test_faulty_fields_are_named_together_before_anything_is_sent() -> None:
    async with embedding_gateway() as (running, server, _):
        added = server.engine.counters.added
        request = embed_request(("a", ""), dimensions=0, truncate_tokens=-2, priority=11)
        error = await refusal(running.stub.Embed(request, metadata=serving.METADATA))
        violations = serving.detail(error, error_details_pb2.BadRequest).field_violations
        named = {violation.field for violation in violations}
        assert named == {"texts.texts[1]", "dimensions", "truncate_tokens", "priority"}
        score = score_request(query="", documents=[])
        error = await refusal(running.stub.Score(score, metadata=serving.METADATA))
        violations = serving.detail(error, error_details_pb2.BadRequest).field_violations
        assert {violation.field for violation in violations} == {"query", "documents"}
        assert server.engine.counters.added == added


async def test_more_inputs_than_the_bound_are_refused_before_they_are_parsed() -> None:
    limits = LimitsConfig(elements=ElementLimitsConfig(inputs=3))
    async with embedding_gateway(limits=limits) as (running, _, _):
        await running.stub.Embed(embed_request(("a",) * 3), metadata=serving.METADATA)
        many = pooling_pb2.EmbedRequest(model=serving.MODEL)
        many.tokens.inputs.extend(chat_pb2.TokenInput(token_ids=[300]) for _ in range(4))
        calls: dict[str, Awaitable[object]] = {
            "texts.texts": running.stub.Embed(embed_request(("a",) * 4), metadata=serving.METADATA),
            "tokens.inputs": running.stub.Embed(many, metadata=serving.METADATA),
            "documents": running.stub.Score(
                score_request(documents=["a"] * 4), metadata=serving.METADATA
            ),
        }
        for field, call in calls.items():
            error = await refusal(call)
            (violation,) = serving.detail(error, error_details_pb2.BadRequest).field_violations
            assert violation.field.startswith(field)
            assert "limits.elements.inputs" in violation.description


async def test_dimensions_and_truncation_reach_the_server_and_its_refusals_the_client() -> None:
    long = "word " * 2000
    config = replace(EMBEDS, matryoshka=True, max_model_len=1000)
    async with embedding_gateway(config) as (running, _, _):
        request = embed_request((long,), dimensions=16, truncate_tokens=8)
        response = await running.stub.Embed(request, metadata=serving.METADATA)
        assert [len(each.values) for each in response.embeddings] == [16]
        assert response.done.usage.prompt_tokens == 8
        request = embed_request((long,), truncate_tokens=-1)
        response = await running.stub.Embed(request, metadata=serving.METADATA)
        assert response.done.usage.prompt_tokens == 1000
        error = await refusal(running.stub.Embed(embed_request((long,)), metadata=serving.METADATA))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "maximum context length is 1000 tokens" in (error.details() or "")
    async with embedding_gateway() as (running, _, _):
        error = await refusal(
            running.stub.Embed(embed_request(dimensions=8), metadata=serving.METADATA)
        )
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "does not support Matryoshka embeddings" in (error.details() or "")


async def test_a_whole_context_of_token_ids_is_embedded_which_no_generation_could_use() -> None:
    async with embedding_gateway(replace(EMBEDS, max_model_len=64)) as (running, _, _):
        full = pooling_pb2.TokenInputs(inputs=[chat_pb2.TokenInput(token_ids=[300] * 64)] * 3)
        request = pooling_pb2.EmbedRequest(model=serving.MODEL, tokens=full)
        response = await running.stub.Embed(request, metadata=serving.METADATA)
    assert response.done.usage.prompt_tokens == 192


@pytest.mark.parametrize(
    "kind", [FaultKind.STATUS, FaultKind.MALFORMED, FaultKind.CUT, FaultKind.ERROR]
)
async def test_a_failed_server_is_left_for_another_one_and_the_answer_is_complete(
    kind: FaultKind,
) -> None:
    async with simulated_vllm(EMBEDS) as one, simulated_vllm(EMBEDS) as other:
        settings = serving.config(pools=[pool([one.url, other.url])])
        async with serving.serving(settings) as running:
            code = 500 if kind is FaultKind.STATUS else None
            one.faults = Faults(faults=(Fault(kind=kind, first=1, code=code),))
            for _ in range(20):  # until the faulty one is asked first
                response = await running.stub.Embed(embed_request(), metadata=serving.METADATA)
                assert len(response.embeddings) == 3
                if len(response.done.route.attempts) == 2:
                    break
    first, last = response.done.route.attempts
    assert (first.placement, last.placement) == ("own/a", "own/b")
    assert last.outcome == "ok"


async def test_without_own_servers_vectors_come_from_a_remote_that_the_policy_allows() -> None:
    settled: list[SettledAttempt] = []
    async with simulated_vllm(EMBEDS) as far:
        settings = serving.config(pools=[pool(["http://127.0.0.1:9"])], remotes=[remote(far.url)])
        async with serving.serving(settings, ready=False, sinks=(settled.append,)) as running:
            core = running.gateway.scheduler.core
            await serving.until(lambda: any(state.serving for state in core.placements))
            response = await running.stub.Embed(embed_request(), metadata=serving.METADATA)
            assert response.done.route.target == "far"
            assert response.done.route.kind == generation_pb2.PLACEMENT_KIND_REMOTE
            assert len(response.embeddings) == 3
            for policy, request in (
                ("local_only", embed_request(data_policy={"local_only": True})),
                ("truncate_tokens", embed_request(truncate_tokens=8)),
            ):
                error = await refusal(running.stub.Embed(request, metadata=serving.METADATA))
                assert error.code() is not grpc.StatusCode.INTERNAL, policy
            # A remote that embeds is not asked for scores: OpenAI's API has none.
            error = await refusal(running.stub.Score(score_request(), metadata=serving.METADATA))
            assert error.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.FAILED_PRECONDITION,
            ), error
    assert [attempt.placement for attempt in settled] == ["far"]


async def test_a_remote_that_scores_is_called_at_rerank() -> None:
    async with simulated_vllm(replace(EMBEDS, task=ModelTask.SCORE)) as far:
        settings = serving.config(remotes=[remote(far.url, Task.SCORE)])
        async with serving.serving(settings) as running:
            response = await running.stub.Score(score_request(), metadata=serving.METADATA)
    capital, woods = response.scores
    assert woods > capital
    assert response.done.usage.prompt_tokens > 0


async def test_a_client_that_leaves_takes_its_inputs_out_of_the_engine() -> None:
    slow = replace(EMBEDS, speed=0.05, max_num_batched_tokens=64)
    async with embedding_gateway(slow) as (running, server, _):
        texts = [f"{i} words " * 50 for i in range(64)]  # no two begin alike, so none is cached
        call = running.stub.Embed(embed_request(texts), metadata=serving.METADATA)
        await serving.until(lambda: server.engine.running + server.engine.waiting > 1)
        call.cancel()
        await serving.until(lambda: server.open_requests == 0)
        await serving.until(lambda: running.gateway.pipeline.active_requests == 0)
        core = running.gateway.scheduler.core
        (state,) = core.placements
        assert (state.sequences, state.kv_tokens, state.kv_reserved_tokens) == (0, 0, 0)


async def test_the_tokens_count_for_the_limits_of_the_key() -> None:
    limited = KeyConfig(
        id="few",
        sha256=key_sha256("few-key"),
        limits=KeyLimitsConfig(tokens_per_minute=40),
    )
    metadata = (("authorization", "Bearer few-key"),)
    async with simulated_vllm(EMBEDS) as server:
        settings = serving.config(pools=[pool([server.url])], keys=[limited])
        async with serving.serving(settings) as running:
            await running.stub.Embed(embed_request(("word " * 30,)), metadata=metadata)
            error = await refusal(
                running.stub.Embed(embed_request(("word " * 30,)), metadata=metadata)
            )
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_decision_about_an_embedding_can_be_explained() -> None:
    async with embedding_gateway() as (running, _, _):
        await running.stub.Embed(embed_request(request_id="why"), metadata=serving.METADATA)
        explained = await running.stub.Explain(
            inference_pb2.ExplainRequest(request_id="why"), metadata=serving.METADATA
        )
    assert explained.placement == "own/a"
    assert explained.expected_output_tokens == 0.0


async def test_another_gateway_makes_vectors_and_scores_as_a_remote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOEGATE_INNER_KEY", serving.KEY)
    async with embedding_gateway(replace(EMBEDS, matryoshka=True)) as (inner, _, _):
        beyond = RemoteConfig(
            name="far",
            remote_class="eu",
            model=serving.MODEL,
            task=Task.EMBED,
            api=RemoteApi.MOEGATE,
            url=f"grpc://{inner.gateway.address}",
            api_key=SecretConfig(env="MOEGATE_INNER_KEY"),
        )
        async with serving.serving(serving.config(remotes=[beyond])) as outer:
            request = embed_request(dimensions=16, truncate_tokens=-1)
            far = await outer.stub.Embed(request, metadata=serving.METADATA)
            near = await inner.stub.Embed(request, metadata=serving.METADATA)
            scores = await outer.stub.Score(score_request(), metadata=serving.METADATA)
            tokens = pooling_pb2.EmbedRequest(
                model=serving.MODEL,
                tokens=pooling_pb2.TokenInputs(inputs=[chat_pb2.TokenInput(token_ids=[300, 301])]),
            )
            of_tokens = await outer.stub.Embed(tokens, metadata=serving.METADATA)
            # What the server refuses reaches the client, through both gateways.
            error = await refusal(
                outer.stub.Embed(embed_request(("word " * 40_000,)), metadata=serving.METADATA)
            )
    assert [list(each.values) for each in far.embeddings] == [
        list(each.values) for each in near.embeddings
    ]
    assert far.done.usage == near.done.usage
    assert far.done.route.target == "far"
    assert of_tokens.done.usage.prompt_tokens == 2
    capital, woods = scores.scores
    assert woods > capital
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "maximum context length" in (error.details() or "")


async def test_only_input_is_charged_and_a_cost_limit_is_held() -> None:
    async with embedding_gateway() as (running, _, settled):
        a_nano_dollar_a_token(running.gateway)
        response = await running.stub.Embed(
            embed_request(max_cost_nano_usd=10_000), metadata=serving.METADATA
        )
        tokens = response.done.usage.prompt_tokens
        assert response.done.cost.charged_nano_usd == tokens
        error = await refusal(
            running.stub.Embed(
                embed_request(max_cost_nano_usd=tokens - 1), metadata=serving.METADATA
            )
        )
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert [attempt.charged_nano_usd for attempt in settled] == [tokens]


async def test_an_idempotency_key_and_a_request_id_are_those_of_one_request() -> None:
    async with embedding_gateway() as (running, _, _):
        request = embed_request(idempotency_key="once")
        await running.stub.Embed(request, metadata=serving.METADATA)
        error = await refusal(running.stub.Embed(request, metadata=serving.METADATA))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_the_trace_names_the_operation_and_what_it_took(otlp: Receiver) -> None:
    name = f"embeddings {serving.MODEL}"
    async with embedding_gateway(replace(EMBEDS, matryoshka=True)) as (running, _, _):
        response = await running.stub.Embed(embed_request(dimensions=16), metadata=serving.METADATA)
        await running.stub.Score(score_request(), metadata=serving.METADATA)
    await otlp.until("admission", name, f"score {serving.MODEL}")
    attempt = otlp.one(name)
    assert attempt.attributes.items() >= {
        ("gen_ai.operation.name", "embeddings"),
        ("gen_ai.embeddings.dimension.count", 16),
        ("gen_ai.request.stream", False),
        ("gen_ai.usage.input_tokens", response.done.usage.prompt_tokens),
        ("gen_ai.usage.output_tokens", 0),
    }
    assert "gen_ai.request.max_tokens" not in attempt.attributes


async def test_a_batch_larger_than_the_engine_is_no_load_of_others() -> None:
    config = replace(EMBEDS, max_num_seqs=4, speed=0.2)
    async with embedding_gateway(config) as (running, server, settled):
        texts = [f"{i} words of a text that no other one begins like" for i in range(300)]
        call = running.stub.Embed(embed_request(texts), metadata=serving.METADATA)
        (state,) = running.gateway.scheduler.core.placements
        seen = []

        def answered() -> bool:
            seen.append((state.external_sequences, server.engine.waiting))
            return call.done()

        await serving.until(answered)
        response = await call
    assert len(response.embeddings) == 300
    assert max(waiting for _, waiting in seen) > 100
    assert max(external for external, _ in seen) == 0
    (attempt,) = settled
    took_s = attempt.ended_unix_s - attempt.started_unix_s
    assert attempt.metered_nano_usd == pytest.approx(took_s * 2.5e9 / 3600, rel=0.05)
