"""InferenceService: converts an RPC into a pipeline call, and pipeline output into messages.

One coroutine writes each stream with `context.write`. Cancelling the RPC therefore raises inside
that coroutine, and every `finally` of the pipeline runs at once. `Deliveries` bounds the writes.
"""

from __future__ import annotations

from contextlib import aclosing

from gateway.config.gateway import KeyRole
from gateway.config.tasks import Task
from gateway.delivery.deliveries import Deliveries
from gateway.domain.choice_assembler import ChoiceAssembler
from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Generation
from gateway.domain.outcomes import Finished, PartialOutput, RequestRefused
from gateway.domain.pooling import Scores, Vectors
from gateway.domain.slices import in_slices
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.grpc import errors
from gateway.doors.grpc.calls import generate_call, pooling_call
from gateway.doors.grpc.decision_messages import explain_message, quote_message
from gateway.doors.grpc.pooling_requests import PoolingRequest
from gateway.doors.grpc.requests import prompt_steps
from gateway.doors.grpc.rpc_context import (
    REQUEST_BYTES,
    Context,
    begin_stream,
    current_caller,
    current_metadata,
    rpc_errors,
)
from gateway.pipeline.call import GenerateCall
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.terms import check_images
from gateway.translation.pooled import write_vectors
from gateway.translation.responses import delta_message, write_choice, write_done
from moegate.v1 import generation_pb2, inference_pb2, inference_pb2_grpc, pooling_pb2
from scheduler.contract import PlacementKind
from scheduler.port import SchedulerPort

_TASKS = {
    Task.GENERATE: inference_pb2.MODEL_TASK_GENERATE,
    Task.EMBED: inference_pb2.MODEL_TASK_EMBED,
    Task.SCORE: inference_pb2.MODEL_TASK_SCORE,
}
_ENDS = (RequestRefused, PartialOutput, UpstreamFailure)


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """The RPCs for callers. Every RPC raises UNAUTHENTICATED if the key is missing or unknown."""

    def __init__(
        self,
        active: ActiveSettings,
        pipeline: Pipeline,
        port: SchedulerPort,
        deliveries: Deliveries,
    ) -> None:
        self._active = active
        self._pipeline = pipeline
        self._port = port
        self._deliveries = deliveries

    async def Generate(  # type: ignore[override]  # the stub types generators only
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> None:
        """Streams deltas, then one `done` message."""
        async with rpc_errors(context):
            call = await self._call(request, context)
            del request  # a large one would stay in memory as long as the stream
            try:
                async with self._deliveries.open(
                    self._pipeline.run(call),
                    tenant=call.caller.tenant,
                    deadline_s=self._pipeline.deadline_s(call),
                ) as delivery:
                    began = False
                    async for output in delivery:
                        if isinstance(output, Finished):
                            message = generation_pb2.GenerateResponse()
                            write_done(message.done, call.generation.request_id, output)
                        else:
                            message = delta_message(output)
                        if not began:
                            began = True
                            await begin_stream(context)
                        await delivery.write(context.write(message))
            except _ENDS as error:
                raise errors.from_outcome(error) from error

    async def GenerateOnce(
        self, request: inference_pb2.GenerateOnceRequest, context: Context
    ) -> inference_pb2.GenerateOnceResponse:
        """Runs the same generation as `Generate` and returns the whole answer in one message."""
        async with rpc_errors(context):
            call = await self._call(request.request, context, whole_answer=True)
            del request
            choices = ChoiceAssembler()
            response = inference_pb2.GenerateOnceResponse()
            try:
                async with aclosing(self._pipeline.run(call)) as outputs:
                    async for output in outputs:
                        if isinstance(output, Finished):
                            write_done(response.done, call.generation.request_id, output)
                        else:
                            for delta in output.deltas:
                                choices.add(delta)
            except _ENDS as error:
                raise errors.from_outcome(error) from error
            for choice in choices.choices():
                write_choice(response.choices.add(), choice)
            return response

    async def Embed(
        self, request: pooling_pb2.EmbedRequest, context: Context
    ) -> pooling_pb2.EmbedResponse:
        """Returns one vector per input."""
        async with rpc_errors(context):
            request_id, pooled, finished = await self._pooled(request, context)
            del request
            assert isinstance(pooled, Vectors)
            response = pooling_pb2.EmbedResponse()
            await in_slices(write_vectors(response, pooled))
            write_done(response.done, request_id, finished)
            return response

    async def Score(
        self, request: pooling_pb2.ScoreRequest, context: Context
    ) -> pooling_pb2.ScoreResponse:
        """Returns one score per document."""
        async with rpc_errors(context):
            request_id, pooled, finished = await self._pooled(request, context)
            assert isinstance(pooled, Scores)
            response = pooling_pb2.ScoreResponse(scores=pooled.scores)
            write_done(response.done, request_id, finished)
            return response

    async def _pooled(
        self, proto: PoolingRequest, context: Context
    ) -> tuple[str, Vectors | Scores, Finished]:
        """Runs a request for vectors or scores. Returns its id, the answer and the summary."""
        steps = pooling_call(
            proto,
            caller=current_caller(),
            context=context,
            metadata=current_metadata(),
            size_bytes=REQUEST_BYTES.get(),
        )
        call = await in_slices(steps)
        pooled: Vectors | Scores | None = None
        finished: Finished | None = None
        try:
            async with aclosing(self._pipeline.run(call)) as outputs:
                async for output in outputs:
                    if isinstance(output, Finished):
                        finished = output
                    elif output.pooled is not None:
                        pooled = output.pooled
        except _ENDS as error:
            raise errors.from_outcome(error) from error
        assert pooled is not None
        assert finished is not None
        return call.generation.request_id, pooled, finished

    async def CountTokens(
        self, request: inference_pb2.CountTokensRequest, context: Context
    ) -> inference_pb2.CountTokensResponse:
        """Counts prompt tokens with a replica's tokenizer. The count is an estimate if only remotes
        serve the model."""
        async with rpc_errors(context):
            caller = current_caller()
            generation = Generation(
                request_id="count",
                model=request.request.model,
                input=await in_slices(prompt_steps(request.request)),
                max_output_tokens=1,
            )
            response = inference_pb2.CountTokensResponse()
            admission = self._pipeline.admission
            try:
                admission.check_model(generation.model, caller)
                check_images(generation, self._pipeline.settings)
                exact = await admission.count(generation)
            except _ENDS as error:
                raise errors.from_outcome(error) from error
            response.exact = exact is not None
            if exact is None:
                response.prompt_tokens = await admission.estimate(generation, caller.tenant)
            else:
                response.prompt_tokens = exact
            for placement in self._port.fleet.of_model(generation.model):
                if placement.context_tokens is not None:
                    response.context_tokens = placement.context_tokens
            return response

    async def ListModels(
        self, request: inference_pb2.ListModelsRequest, context: Context
    ) -> inference_pb2.ListModelsResponse:
        """Lists the models that the key may use."""
        async with rpc_errors(context):
            caller = current_caller()
            tasks = self._pipeline.settings.tasks
            models: dict[str, inference_pb2.Model] = {}
            fleet = self._port.fleet
            for name in sorted(filter(caller.allows_model, fleet.by_model)):
                models[name] = model = inference_pb2.Model(name=name)
                its_tasks = tasks.get(fleet.base_model(name), ())
                model.tasks.extend(_TASKS[each] for each in sorted(its_tasks))
                if name in fleet.bases:
                    model.adapter_of = fleet.bases[name]
                for placement in fleet.of_model(name):
                    if placement.context_tokens is not None:
                        model.context_tokens = max(model.context_tokens, placement.context_tokens)
                    if placement.kind is PlacementKind.SELF_HOSTED:
                        # A placement without an address is waiting for DNS to resolve a replica.
                        model.local_replicas += bool(placement.address)
                        model.local_replicas_serving += placement.serving and placement.has(name)
                    else:
                        model.remotes += 1
            return inference_pb2.ListModelsResponse(models=models.values())

    async def Quote(
        self, request: inference_pb2.QuoteRequest, context: Context
    ) -> inference_pb2.QuoteResponse:
        """Returns the placement that would be chosen now, and the alternatives. Starts nothing."""
        async with rpc_errors(context):
            call = await self._call(request.request, context)
            try:
                return quote_message(*await self._pipeline.quote(call))
            except _ENDS as error:
                raise errors.from_outcome(error) from error

    async def Explain(
        self, request: inference_pb2.ExplainRequest, context: Context
    ) -> inference_pb2.ExplainResponse:
        """Returns the placement decision of a recent request. Only an operator may ask about
        another key's request."""
        async with rpc_errors(context):
            caller = current_caller()
            key_id = request.key_id or caller.key_id
            if key_id != caller.key_id and caller.role is not KeyRole.OPERATOR:
                raise errors.denied(f"key_id: key {caller.key_id} is no operator's")
            explained = await self._port.explain(f"{key_id}/{request.request_id}")
            if explained is None:
                raise errors.no_decision(request.request_id)
            return explain_message(request.request_id, explained)

    async def _call(
        self,
        proto: generation_pb2.GenerateRequest,
        context: Context,
        *,
        whole_answer: bool = False,
    ) -> GenerateCall:
        """Checks the request and converts it. Raises RpcError."""
        caller = current_caller()
        steps = generate_call(
            proto,
            caller=caller,
            context=context,
            metadata=current_metadata(),
            size_bytes=REQUEST_BYTES.get(),
            default_max_output_tokens=self._pipeline.default_output_tokens(
                proto.model, caller, proto.choices
            ),
            whole_answer=whole_answer,
        )
        return await in_slices(steps)
