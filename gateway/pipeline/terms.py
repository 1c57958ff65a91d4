"""Terms of service that a call asks for, within what its key may ask for.

A call may loosen the figures of its class. Tighter ones, and a priority above 0, hold capacity that
others then lack, so the key must allow them. What is out of bounds is refused, never changed in
silence: the caller chose it. The deadline alone is cut, because it is no field of the request and
many clients set none or an endless one.
"""

from __future__ import annotations

from gateway.auth.authenticator import Caller
from gateway.config.gateway import SloFiguresConfig
from gateway.config.tasks import Task
from gateway.domain.generation import Generation
from gateway.domain.image_policy import image_fault
from gateway.domain.outcomes import RequestRefused
from gateway.pipeline.call import GenerateCall
from gateway.pipeline.settings import PipelineSettings
from gateway.upstream.features import task_of
from scheduler.contract import RefusalReason, Slo, SloClass
from scheduler.fleet_view import FleetView

_CALLED = {Task.GENERATE: "Generate", Task.EMBED: "Embed", Task.SCORE: "Score"}
"""RPC of each task."""


def check_task(generation: Generation, settings: PipelineSettings, base_model: str) -> None:
    """Raises RequestRefused (OUT_OF_BOUNDS) if the servers of the model do something else.
    `base_model`: the model, or that of the adapter."""
    task = task_of(generation)
    tasks = settings.tasks.get(base_model, frozenset())
    if tasks and task not in tasks:
        does = " and ".join(f"{each}s" for each in sorted(tasks))
        calls = " or ".join(_CALLED[each] for each in sorted(tasks))
        text = f"{generation.model!r} {does}, it does not {task}: call {calls}, or name another one"
        raise out_of_bounds("model", text)


def slo_of(call: GenerateCall, settings: PipelineSettings) -> Slo:
    """Returns the promised service level. Raises RequestRefused (PERMISSION_DENIED)."""
    caller = call.caller
    default = caller.slo_classes[0] if caller.slo_classes else SloClass.INTERACTIVE
    slo_class = default if call.slo_class is None else call.slo_class
    if not caller.allows_slo_class(slo_class):
        mine = ", ".join(caller.slo_classes)
        raise denied(f"slo.slo_class: key {caller.key_id} may use {mine}, not {slo_class}")
    figures: SloFiguresConfig = getattr(settings.slo_classes, slo_class.value)
    ttft_s, tpot_s = figures.ttft_s, figures.tpot_s
    if call.ttft_s is not None:
        _check_least("ttft", call.ttft_s, ttft_s, caller.min_ttft_s, slo_class, caller)
        ttft_s = call.ttft_s
    if call.tpot_s is not None:
        _check_least("tpot", call.tpot_s, tpot_s, caller.min_tpot_s, slo_class, caller)
        tpot_s = call.tpot_s
    return Slo(slo_class=slo_class, ttft_s=ttft_s, tpot_s=tpot_s, max_queue_s=figures.max_queue_s)


def priority_of(call: GenerateCall) -> int:
    """Returns the priority. Raises RequestRefused (PERMISSION_DENIED)."""
    caller = call.caller
    if call.priority > caller.max_priority:
        raise denied(
            f"priority: {call.priority} is above max_priority {caller.max_priority} of key"
            f" {caller.key_id}: ask for at most {caller.max_priority}, or leave it out"
        )
    return call.priority


def time_left_s(call: GenerateCall, settings: PipelineSettings) -> float:
    """Returns the seconds that the call may take: its own time, but no more than the limit."""
    if call.remaining_s is None:
        return min(settings.default_deadline_s, settings.max_deadline_s)
    return min(call.remaining_s, settings.max_deadline_s)


def check_output_tokens(call: GenerateCall, settings: PipelineSettings, fleet: FleetView) -> None:
    """Raises RequestRefused (OUT_OF_BOUNDS) if the output limit is above the model's context, or
    that of all choices above the limit of the gateway or the key."""
    generation, caller = call.generation, call.caller
    asked, choices = generation.max_output_tokens, generation.choices
    contexts = [placement.context_tokens for placement in fleet.of_model(generation.model)]
    known = [context for context in contexts if context is not None]
    if known and len(known) == len(contexts) and asked > max(known):
        text = f"{asked}: the context of model {generation.model!r} has {max(known)} tokens"
        raise out_of_bounds("max_output_tokens", f"{text}: ask for less, or leave it out")
    most, name = settings.max_output_tokens, "limits.max_output_tokens of the gateway"
    if caller.max_output_tokens is not None and caller.max_output_tokens < most:
        most, name = caller.max_output_tokens, f"limits.max_output_tokens of key {caller.key_id}"
    if asked * choices > most:
        shown = f"{asked}" if choices == 1 else f"{asked} for each of {choices} choices"
        fix = f"ask for at most {most // choices}" if most >= choices else "ask for fewer choices"
        raise out_of_bounds("max_output_tokens", f"{shown}: {name} is {most}: {fix}")


def check_images(generation: Generation, settings: PipelineSettings) -> None:
    """Raises RequestRefused (OUT_OF_BOUNDS) for an image that the configuration does not allow."""
    fault = image_fault(generation, settings.images)
    if fault is not None:
        raise out_of_bounds(*fault)


def denied(message: str) -> RequestRefused:
    """Builds the refusal for a key that lacks the right."""
    return RequestRefused(RefusalReason.PERMISSION_DENIED, message)


def out_of_bounds(field: str, message: str) -> RequestRefused:
    """Builds the refusal for a field with a value that nobody may ask for."""
    return RequestRefused(RefusalReason.OUT_OF_BOUNDS, message, subject=field)


def _check_least(
    field: str,
    asked_s: float,
    figure_s: float,
    min_s: float | None,
    slo_class: SloClass,
    caller: Caller,
) -> None:
    """Raises RequestRefused if a figure is tighter than that of the class and than the key may."""
    least_s = figure_s if min_s is None else min(figure_s, min_s)
    if asked_s >= least_s:
        return
    of = f"class {slo_class}" if least_s == figure_s else f"min_{field}_s of key {caller.key_id}"
    hint = f" (min_{field}_s of key {caller.key_id} would allow less)" if min_s is None else ""
    raise denied(
        f"slo.{field}: {asked_s:g} s is below {least_s:g} s, the figure of {of}:"
        f" ask for at least {least_s:g} s, or leave it out{hint}"
    )
