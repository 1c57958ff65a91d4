"""InferenceService: takes the RPC, checks it, hands it to the dispatcher, writes what comes back.

Streams are written with `context.write` from one coroutine: a cancelled RPC then raises inside it,
and every `finally` below runs at once.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

import msgspec

from gateway.accounting.budgets import Budgets
from gateway.auth.authenticator import Caller
from gateway.config.gateway import KeyRole
from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Chunk, Generation
from gateway.doors.grpc import errors
from gateway.doors.grpc.choice_assembler import Answer
from gateway.doors.grpc.decision_messages import explain_message, quote_message
from gateway.doors.grpc.hops import hops_of
from gateway.doors.grpc.requests import parse_generation, parse_input
from gateway.doors.grpc.rpc_context import Context, Metadata, answering, caller_of, metadata_of
from gateway.pipeline.admission import PromptSizes, scheduler_request
from gateway.pipeline.attempt import PartialOutput
from gateway.pipeline.dispatch import Rejected
from gateway.pipeline.hints import engine_hints
from gateway.pipeline.idempotency import REMEMBERED_S, IdempotencyKeys
from gateway.pipeline.prefix_blocks import prefix_blocks, token_blocks
from gateway.pipeline.spending import SPENDING_REFUSED, Spending, refused
from gateway.pipeline.token_count import exact_prompt_tokens
from gateway.runtime.active_configuration import ActiveConfiguration
from gateway.runtime.assembly import Runtime
from gateway.telemetry.observer import Telemetry
from gateway.translation.chat_input import Violations
from gateway.translation.responses import Finished, delta_message, write_choice, write_done
from moegate.v1 import generation_pb2, inference_pb2, inference_pb2_grpc
from scheduler.contract import PlacementKind, Request
from scheduler.limits.rate_limit import RateLimiter

log = logging.getLogger(__name__)


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """The RPCs that clients call."""

    def __init__(
        self,
        live: ActiveConfiguration,
        clock: Callable[[], float],
        telemetry: Telemetry,
        budgets: Budgets,
    ) -> None:
        self._live = live
        self._clock = clock
        self._telemetry = telemetry
        self._limiter = RateLimiter()
        self._idempotency = IdempotencyKeys()
        self._sizes = PromptSizes()
        self._spending = Spending(budgets)

    async def Generate(  # type: ignore[override]  # the stub knows generators only
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> None:
        """Streams deltas, then `done`."""
        async with answering(context):
            call = self._call(request, context)
            async with aclosing(self._run(call)) as outputs:
                async for output in outputs:
                    if isinstance(output, Finished):
                        message = generation_pb2.GenerateResponse()
                        write_done(message.done, call.generation.request_id, output)
                        await context.write(message)
                    else:
                        await context.write(delta_message(output))

    async def GenerateOnce(
        self, request: inference_pb2.GenerateOnceRequest, context: Context
    ) -> inference_pb2.GenerateOnceResponse:
        """The same, in one answer."""
        async with answering(context):
            call = self._call(request.request, context)
            answer = Answer()
            response = inference_pb2.GenerateOnceResponse()
            async with aclosing(self._run(call, hold=True)) as outputs:
                async for output in outputs:
                    if isinstance(output, Finished):
                        write_done(response.done, call.generation.request_id, output)
                    else:
                        for delta in output.deltas:
                            answer.add(delta)
            for choice in answer.choices():
                write_choice(response.choices.add(), choice)
            return response

    async def CountTokens(
        self, request: inference_pb2.CountTokensRequest, context: Context
    ) -> inference_pb2.CountTokensResponse:
        """Counts by a replica's own tokenizer; estimates where only remotes serve the model."""
        async with answering(context):
            caller = caller_of(self._live, metadata_of(context))
            violations = Violations()
            generation = Generation(
                request_id="count",
                model=request.request.model,
                input=parse_input(request.request, violations),
                max_output_tokens=1,
            )
            if violations:
                raise errors.invalid(("request." + field, text) for field, text in violations)
            self._check_model(generation.model, caller)
            return await self._count(generation)

    async def ListModels(
        self, request: inference_pb2.ListModelsRequest, context: Context
    ) -> inference_pb2.ListModelsResponse:
        """The models that the key may use."""
        async with answering(context):
            caller = caller_of(self._live, metadata_of(context))
            models: dict[str, inference_pb2.Model] = {}
            runtime = self._live.runtime
            for state in runtime.scheduler.placements:
                name = state.facts.model
                if not caller.allows_model(name):
                    continue
                model = models.setdefault(name, inference_pb2.Model(name=name))
                if state.context_tokens is not None:
                    model.context_tokens = max(model.context_tokens, state.context_tokens)
                if state.facts.kind is PlacementKind.LOCAL:
                    # A place without an address waits for DNS to name a replica.
                    model.local_replicas += state.facts.name in runtime.targets
                    model.local_replicas_serving += state.serving
                else:
                    model.remotes += 1
            return inference_pb2.ListModelsResponse(
                models=[models[name] for name in sorted(models)]
            )

    async def Quote(
        self, request: inference_pb2.QuoteRequest, context: Context
    ) -> inference_pb2.QuoteResponse:
        """Where the request would run now, and why; nothing is started."""
        async with answering(context):
            runtime = self._live.runtime
            priced, _, _ = await self._request(self._call(request.request, context), runtime)
            return quote_message(runtime.scheduler.quote(priced, self._clock()))

    async def Explain(
        self, request: inference_pb2.ExplainRequest, context: Context
    ) -> inference_pb2.ExplainResponse:
        """Why a request of the last ones ran where it did."""
        async with answering(context):
            caller = caller_of(self._live, metadata_of(context))
            key_id = request.key_id or caller.key_id
            if key_id != caller.key_id and caller.role is not KeyRole.OPERATOR:
                raise errors.denied(f"key_id: key {caller.key_id} is no operator's")
            decision = self._live.decision(f"{key_id}/{request.request_id}")
            if decision is None:
                raise errors.no_decision(request.request_id)
            return explain_message(request.request_id, decision, self._clock())

    def _check_model(self, model: str, caller: Caller) -> None:
        if not caller.allows_model(model):
            raise errors.denied(f"key {caller.key_id} may not use model {model!r}")
        if not self._live.runtime.scheduler.has_model(model):
            raise errors.unknown_model(model)

    def _call(self, proto: generation_pb2.GenerateRequest, context: Context) -> _Call:
        """The call, if it may be made. Raises RpcError."""
        metadata = metadata_of(context)
        caller = caller_of(self._live, metadata)
        generation = parse_generation(proto, self._default_output_tokens(proto), hops_of(metadata))
        self._check_model(generation.model, caller)
        return _Call(
            proto=proto,
            generation=generation,
            caller=caller,
            metadata=metadata,
            remaining_s=context.time_remaining(),
        )

    def _default_output_tokens(self, proto: generation_pb2.GenerateRequest) -> int:
        """Output tokens for a request that names no limit: never beyond the context, which the
        engine would refuse, for what nobody asked."""
        default = self._live.runtime.config.limits.default_max_output_tokens
        if proto.HasField("max_output_tokens"):
            return default
        contexts = [
            state.context_tokens
            for state in self._live.runtime.scheduler.placements
            if state.facts.model == proto.model and state.context_tokens is not None
        ]
        return min([default, *contexts])

    async def _run(
        self, call: _Call, *, hold: bool = False
    ) -> AsyncGenerator[Chunk | Finished, None]:
        """Runs the request within the key's limits."""
        runtime, proto, caller = self._live.runtime, call.proto, call.caller
        request, generation, unsupported = await self._request(call, runtime, hold=hold)
        prompt_tokens = request.prompt_tokens
        dispatcher, key = runtime.dispatcher, request.request_id
        if dispatcher.is_in_flight(key) or self._spending.has(key):
            message = f"request_id {generation.request_id!r} is in flight: choose another, or none"
            raise errors.already_exists(message, generation.request_id)
        limit = proto.max_cost_nano_usd if proto.HasField("max_cost_nano_usd") else None
        with (
            self._once(proto, generation, caller),
            self._within_limits(caller, prompt_tokens) as spent,
        ):
            try:
                async with self._spending.reserved(request, generation, runtime, limit) as request:
                    if self._live.runtime is not runtime:
                        message = "the configuration changed while the budget was asked: try again"
                        raise errors.unavailable(message, "RELOADED", 0.0)
                    trail = self._telemetry.trail(
                        request,
                        generation,
                        caller.key_id,
                        runtime.targets,
                        runtime.scheduler.decisions.get,
                    )
                    outputs = dispatcher.stream(request, generation, hold=hold, trail=trail)
                    async with aclosing(outputs):
                        async for output in outputs:
                            if isinstance(output, Finished):
                                usage = output.usage
                                spent.tokens = usage.prompt_tokens + usage.completion_tokens
                                if not usage.estimated:
                                    self._sizes.learn(generation, usage.prompt_tokens)
                            else:
                                spent.tokens = prompt_tokens + output.output_tokens
                            yield output
            except SPENDING_REFUSED as error:
                spent.tokens = 0
                raise refused(error) from error
            except Rejected as rejected:
                spent.tokens = 0
                raise errors.from_reject(rejected.reject, unsupported) from rejected
            except PartialOutput as partial:
                spent.tokens = partial.usage.prompt_tokens + partial.usage.completion_tokens
                raise errors.partial_output(
                    partial.failure, partial.usage, partial.settled
                ) from partial
            except UpstreamFailure as failure:
                raise errors.from_failure(failure) from failure

    async def _request(
        self, call: _Call, runtime: Runtime, *, hold: bool = False
    ) -> tuple[Request, Generation, dict[str, tuple[str, ...]]]:
        """The request as the scheduler sees it, the generation with its hints for own engines, and
        fields that placements cannot honour."""
        generation = call.generation
        unsupported = runtime.unsupported_by(generation)
        request = scheduler_request(
            call.proto,
            generation,
            caller=call.caller,
            config=runtime.config,
            prompt_tokens=self._sizes.estimate(generation),
            unsupported_by=unsupported,
            now=self._clock(),
            remaining_s=call.remaining_s,
            holds_output=hold,
        )
        hints = engine_hints(request, call.metadata, salted=generation.model in runtime.salted)
        blocks, block_tokens = await prefix_blocks(
            generation, hints.cache_salt, request.prompt_tokens
        )
        block_sizes = runtime.scheduler.token_block_sizes(generation.model)
        exact_blocks = await token_blocks(generation, hints.cache_salt, block_sizes)
        if blocks or exact_blocks:  # a short prompt fills none
            request = replace(
                request,
                prefix_blocks=blocks,
                prefix_block_tokens=block_tokens,
                token_blocks=exact_blocks,
            )
        generation = msgspec.structs.replace(
            generation,
            hints=hints,
            remote_classes=request.remote_classes,
            slo_class=request.slo.slo_class,
            priority=request.priority,
        )
        return request, generation, unsupported

    @contextmanager
    def _once(
        self, proto: generation_pb2.GenerateRequest, generation: Generation, caller: Caller
    ) -> Iterator[None]:
        """Claims the idempotency key, if there is one. Raises RpcError when it is taken."""
        if not proto.idempotency_key:
            yield
            return
        key = (caller.key_id, proto.idempotency_key)
        first_id = self._idempotency.first_request(key, self._clock())
        if first_id is not None:
            message = f"idempotency_key: request {first_id!r} has it"
            raise errors.already_exists(message, first_id)
        if not self._idempotency.claim(key, generation.request_id):
            message = "idempotency_key: too many are remembered"
            raise errors.exhausted(message, "IDEMPOTENCY_KEYS", REMEMBERED_S)
        remember = True
        try:
            yield
        except errors.RpcError as error:
            # Refused, or failed before content: the client may try again with the same key.
            remember = isinstance(error.__cause__, PartialOutput)
            raise
        finally:
            self._idempotency.end(key, self._clock(), remember=remember)

    @contextmanager
    def _within_limits(self, caller: Caller, prompt_tokens: int) -> Iterator[_Spent]:
        """Holds one of the key's slots; tokens count in full at the end. Raises RpcError."""
        now = self._clock()
        refusal = self._limiter.admit(caller.key_id, caller.limits, prompt_tokens, now)
        if refusal is not None:
            message = f"key {caller.key_id} is at its limit {refusal.limit}"
            raise errors.exhausted(message, "KEY_LIMIT", refusal.retry_after_s)
        spent = _Spent(prompt_tokens)
        try:
            yield spent
        finally:
            self._limiter.settle(caller.key_id, prompt_tokens, spent.tokens, self._clock())

    async def _count(self, generation: Generation) -> inference_pb2.CountTokensResponse:
        response = inference_pb2.CountTokensResponse()
        runtime = self._live.runtime
        for state in runtime.scheduler.placements:
            if state.facts.model == generation.model and state.context_tokens is not None:
                response.context_tokens = state.context_tokens
        try:
            exact = await exact_prompt_tokens(runtime, generation)
        except UpstreamFailure as failure:
            raise errors.from_failure(failure) from failure
        response.exact = exact is not None
        response.prompt_tokens = self._sizes.estimate(generation) if exact is None else exact
        return response


class _Call(msgspec.Struct, frozen=True, kw_only=True):
    """A generation that was asked for, and by whom. `remaining_s`: to the client's deadline."""

    proto: generation_pb2.GenerateRequest
    generation: Generation
    caller: Caller
    metadata: Metadata
    remaining_s: float | None


class _Spent:
    """Tokens that a request has used."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
