"""Checks a call and converts it into the scheduler's `Request`."""

from __future__ import annotations

from collections.abc import Callable, Collection

from msgspec import structs

from gateway.auth.authenticator import Caller
from gateway.domain.generation import Generation, Session
from gateway.domain.outcomes import RequestRefused
from gateway.domain.pooling import PoolingInput, input_count
from gateway.domain.slices import in_one_slice, in_slices
from gateway.pipeline.call import GenerateCall
from gateway.pipeline.fingerprint import constraint, features, fingerprint
from gateway.pipeline.hints import engine_hints
from gateway.pipeline.prefix_blocks import prefix_blocks, token_blocks
from gateway.pipeline.prompt_sizes import PromptSizes
from gateway.pipeline.settings import PipelineSettings
from gateway.pipeline.terms import (
    check_images,
    check_output_tokens,
    check_task,
    denied,
    priority_of,
    slo_of,
    time_left_s,
)
from gateway.pipeline.token_count import exact_prompt_tokens
from gateway.pipeline.upstreams import Upstreams
from scheduler.contract import RefusalReason, Request, SloClass
from scheduler.port import SchedulerPort


class Admission:
    """Performs the admission checks that need no scheduler decision."""

    def __init__(
        self, port: SchedulerPort, upstreams: Upstreams, clock: Callable[[], float]
    ) -> None:
        self._port = port
        self._upstreams = upstreams
        self._clock = clock
        self._sizes = PromptSizes()

    def check_model(self, model: str, caller: Caller) -> None:
        """Raises RequestRefused if the key may not use the model or no placement serves it."""
        if not caller.allows_model(model):
            message = f"key {caller.key_id} may not use model {model!r}"
            raise RequestRefused(RefusalReason.PERMISSION_DENIED, message, model=model)
        if not self._port.fleet.of_model(model):
            message = f"model {model!r} is not served here: see ListModels"
            raise RequestRefused(RefusalReason.UNKNOWN_MODEL, message, model=model)

    async def admit(
        self, call: GenerateCall, settings: PipelineSettings
    ) -> tuple[Request, Generation, dict[str, tuple[str, ...]]]:
        """Checks a call. Returns the scheduler's request, the generation with its engine hints, and
        the unsupported fields keyed by placement. Raises RequestRefused."""
        generation = call.generation
        self.check_model(generation.model, call.caller)
        base_model = self._port.fleet.base_model(generation.model)
        check_task(generation, settings, base_model)
        check_output_tokens(call, settings, self._port.fleet)
        check_images(generation, settings)
        unsupported = self._upstreams.unsupported_by(generation)
        prompt_tokens = call.prompt_tokens
        if prompt_tokens is None:
            prompt_tokens = await self.estimate(generation, call.caller.tenant)
        request = scheduler_request(
            call,
            settings,
            prompt_tokens=prompt_tokens,
            unsupported_by=unsupported,
            signed_by=self._upstreams.signed_by(generation),
            now=self._clock(),
        )
        isolated = base_model in settings.isolated_models
        hints = engine_hints(request, call.trace_headers, isolated=isolated)
        blocks, block_tokens, digest = await in_slices(
            prefix_blocks(generation, hints.cache_salt, request.prompt_tokens)
        )
        sizes = self._port.fleet.token_block_sizes.get(base_model, ())
        adapter = generation.model if generation.model != base_model else ""
        exact_blocks = await in_slices(
            token_blocks(generation, hints.cache_salt, sizes, adapter=adapter)
        )
        request = structs.replace(
            request,
            prefix_blocks=blocks,
            prefix_block_tokens=block_tokens,
            token_blocks=exact_blocks,
            fingerprint=fingerprint(generation, digest),
            constraint=constraint(generation),
            features=features(generation),
        )
        generation = structs.replace(
            generation,
            hints=hints,
            session=_session(request),
            remote_classes=request.remote_classes,
            slo_class=request.slo.slo_class,
            priority=request.priority,
            batch_work=request.batch_work,
        )
        return request, generation, unsupported

    async def count(self, generation: Generation) -> int | None:
        """Returns the number of prompt tokens counted by a replica; None: no replica could count.

        Raises UpstreamFailure if a replica rejects the request itself.
        """
        return await exact_prompt_tokens(self._port.fleet, self._upstreams.clients, generation)

    async def estimate(self, generation: Generation, tenant: str) -> int:
        """Returns an estimate of the prompt tokens. It measures every text of the prompt."""
        return await in_one_slice(lambda: self._sizes.estimate(generation, tenant))

    def learn(self, generation: Generation, tenant: str, prompt_tokens: int) -> None:
        """Updates the estimator with the prompt tokens that an engine reported."""
        self._sizes.learn(generation, tenant, prompt_tokens)


def scheduler_request(
    call: GenerateCall,
    settings: PipelineSettings,
    *,
    prompt_tokens: int,
    unsupported_by: Collection[str],
    now: float,
    signed_by: frozenset[str] = frozenset(),
) -> Request:
    """Builds the scheduler's request. `now`: monotonic seconds. Raises RequestRefused
    (PERMISSION_DENIED)."""
    generation, caller, slo = call.generation, call.caller, slo_of(call, settings)
    return Request(
        # Clients choose request ids, so two keys may choose the same one.
        request_id=f"{caller.key_id}/{generation.request_id}",
        tenant=caller.tenant,
        model=generation.model,
        arrival_s=now,
        deadline_s=now + time_left_s(call, settings),
        slo=slo,
        priority=priority_of(call),
        prompt_tokens=prompt_tokens,
        prompt_tokens_exact=isinstance(generation.input, tuple),
        max_output_tokens=generation.max_output_tokens,
        choices=generation.choices,
        inputs=(input_count(generation.input) if isinstance(generation.input, PoolingInput) else 1),
        size_bytes=call.size_bytes,
        remote_classes=_remote_classes(call, settings),
        session_id=call.session_id,
        end_user=call.end_user,
        labels_json=call.labels_json,
        weight=caller.weight,
        key_id=caller.key_id,
        unsupported_by=frozenset(unsupported_by),
        signed_by=signed_by,
        whole_answer=call.whole_answer,
        batch_work=call.batch_item or slo.slo_class is SloClass.BATCH,
    )


def _session(request: Request) -> Session | None:
    if not request.session_id:
        return None
    return Session(tenant=request.tenant, session_id=request.session_id)


def _remote_classes(call: GenerateCall, settings: PipelineSettings) -> frozenset[str]:
    if call.local_only:
        return frozenset()
    mine = frozenset(filter(call.caller.allows_remote_class, settings.remote_classes))
    if not call.remote_classes:
        return mine
    if not call.remote_classes <= mine:
        # Bounded, because a status message beyond gRPC's trailer limit would not reach the client.
        names = ", ".join(sorted(call.remote_classes - mine))[:200]
        raise denied(f"data_policy.remote_classes: key {call.caller.key_id} may not use {names}")
    return call.remote_classes
