"""Checks every field of a `GenerateRequest` and converts it into a `Generation`.

The bounds are those of the API's field comments. A violation names the field, the value and the
fix. Up to 20 violations are reported together, as far as they fit into one response.
"""

from __future__ import annotations

import secrets

from gateway.domain import request_bounds as bounds
from gateway.domain.generation import Chat, Generation, Sampling
from gateway.domain.slices import Steps
from gateway.domain.tags import is_end_user, labels_json
from gateway.doors.grpc import errors
from gateway.doors.grpc.times import seconds_of
from gateway.translation.chat_input import EnoughFaults, Violations, parse_chat
from moegate.v1 import generation_pb2, pooling_pb2

_MAX_STOPS = 4
_MAX_PRIORITY = 10
_STEP_TOKENS = 16_384
"""Token ids that are converted in one step."""

_NO_SAMPLING = Sampling()
_SLO_CLASSES = frozenset(generation_pb2.SloClass.values())


def generation_steps(
    proto: generation_pb2.GenerateRequest, default_max_output_tokens: int, hops: int = 0
) -> Steps[Generation]:
    """Returns the request as a domain value. Raises RpcError (INVALID_ARGUMENT) that names the
    violations."""
    violations = Violations()
    try:
        generation = yield from _generation(proto, default_max_output_tokens, hops, violations)
    except EnoughFaults:
        raise errors.invalid(violations, more=True) from None
    if violations:
        raise errors.invalid(violations)
    return generation


def prompt_steps(
    proto: generation_pb2.GenerateRequest,
) -> Steps[Chat | str | tuple[int, ...]]:
    """Returns the input of a request of which nothing else is read but the model. Raises RpcError
    (INVALID_ARGUMENT) that names the violations."""
    violations = Violations()
    more = False
    try:
        prompt = yield from _input(proto, violations)
    except EnoughFaults:
        more = True
    if violations:
        inner = ((f"request.{field}", description) for field, description in violations)
        raise errors.invalid(inner, more=more)
    return prompt


def _generation(
    proto: generation_pb2.GenerateRequest,
    default_max_output_tokens: int,
    hops: int,
    violations: Violations,
) -> Steps[Generation]:
    """Converts a request. The result means nothing if there are violations."""
    most = proto.max_output_tokens if proto.HasField("max_output_tokens") else None
    generation_input = yield from _input(proto, violations, most)
    sampling = _NO_SAMPLING
    if proto.HasField("sampling"):
        sampling = _parse_sampling(proto.sampling, violations)
    check_scheduling_fields(proto, violations)
    fault = violations.add  # called on faults only, so valid requests format no text
    request_id = checked_request_id(proto.request_id, violations)
    max_output_tokens = default_max_output_tokens
    if proto.HasField("max_output_tokens"):
        max_output_tokens = proto.max_output_tokens
        if max_output_tokens <= 0:
            fault("max_output_tokens", "0: give at least 1, or leave it out")
    stops = tuple(proto.stop)
    if len(stops) > _MAX_STOPS:
        fault("stop", f"{len(stops)} texts: at most {_MAX_STOPS}")
    for i, stop in enumerate(stops):
        size = len(stop.encode())
        if not 0 < size <= bounds.MAX_STOP_BYTES:
            fault(f"stop[{i}]", f"{size} bytes: give 1 to {bounds.MAX_STOP_BYTES}")
    choices, logprobs = proto.choices, proto.logprobs
    if choices > bounds.MAX_CHOICES:
        fault("choices", f"{choices}: at most {bounds.MAX_CHOICES}")
    if logprobs > bounds.MAX_LOGPROBS:
        fault("logprobs", f"{logprobs}: at most {bounds.MAX_LOGPROBS}")
    logit_bias, stop_token_ids = _token_rules(proto, max_output_tokens, violations)
    return Generation(
        request_id=request_id,
        model=proto.model,
        input=generation_input,
        max_output_tokens=max_output_tokens,
        sampling=sampling,
        stop=stops,
        choices=choices or 1,
        logprobs=logprobs if proto.HasField("logprobs") else None,
        ignore_eos=proto.ignore_eos,
        min_tokens=proto.min_tokens,
        logit_bias=logit_bias,
        stop_token_ids=stop_token_ids,
        hops=hops,
    )


def _input(
    proto: generation_pb2.GenerateRequest,
    violations: Violations,
    max_output_tokens: int | None = None,
) -> Steps[Chat | str | tuple[int, ...]]:
    """Returns the input of a request and checks its model name. Violations are appended to
    `violations`. `max_output_tokens`: of the request; None: it sets none."""
    check_model_name(proto.model, violations)
    match proto.WhichOneof("input"):
        case "chat":
            return (yield from parse_chat(proto.chat, violations, max_output_tokens))
        case "prompt":
            prompt = proto.prompt  # each access decodes the text anew
            violations.check(bool(prompt), "prompt", "empty: give some text")
            yield
            return prompt
        case "prompt_tokens":
            given = proto.prompt_tokens.token_ids
            violations.check(bool(given), "prompt_tokens.token_ids", "empty: give some tokens")
            token_ids: list[int] = []
            for start in range(0, len(given), _STEP_TOKENS):
                token_ids += given[start : start + _STEP_TOKENS]
                yield
            return tuple(token_ids)
        case _:
            violations.add("input", "not set: give chat, prompt or prompt_tokens")
            return ""


def check_model_name(model: str, violations: Violations) -> None:
    """Appends a violation if the name cannot be that of a model."""
    size = len(model)
    if not size:
        violations.add("model", "empty: name a model that ListModels gives")
    elif size > bounds.MAX_MODEL_CHARS:
        violations.add("model", f"{size} characters: at most {bounds.MAX_MODEL_CHARS}")


def checked_request_id(given: str, violations: Violations) -> str:
    """Returns the id, or a new one if none is given."""
    request_id = given or secrets.token_hex(12)
    if bounds.REQUEST_ID.match(request_id) is None:
        fix = 'give at most 128 letters, digits or "._:-"'
        violations.add("request_id", f"{given[:140]!r}: {fix}")
    return request_id


def _token_rules(
    proto: generation_pb2.GenerateRequest, max_output_tokens: int, violations: Violations
) -> tuple[tuple[tuple[int, float], ...], tuple[int, ...]]:
    """Returns the logit biases, by token id, and the stop token ids. Checks `min_tokens`, too."""
    fault = violations.add
    if proto.min_tokens > max_output_tokens:
        most = f"give at most max_output_tokens, which is {max_output_tokens}"
        fault("min_tokens", f"{proto.min_tokens}: {most}")
    biases = tuple(sorted(proto.logit_bias.items())) if proto.logit_bias else ()
    if len(biases) > bounds.MAX_LOGIT_BIASES:
        fault("logit_bias", f"{len(biases)} tokens: at most {bounds.MAX_LOGIT_BIASES}")
    for token, bias in biases:
        if token > bounds.MAX_TOKEN_ID:
            fault(f"logit_bias[{token}]", f"{token} is no token id: at most {bounds.MAX_TOKEN_ID}")
        if not abs(bias) <= bounds.MAX_LOGIT_BIAS:
            fault(
                f"logit_bias[{token}]",
                f"{bias}: give {-bounds.MAX_LOGIT_BIAS} to {bounds.MAX_LOGIT_BIAS}",
            )
    stops = tuple(dict.fromkeys(proto.stop_token_ids))
    if len(stops) > bounds.MAX_STOP_TOKEN_IDS:
        fault("stop_token_ids", f"{len(stops)} token ids: at most {bounds.MAX_STOP_TOKEN_IDS}")
    for i, token in enumerate(stops):
        if token > bounds.MAX_TOKEN_ID:
            fault(f"stop_token_ids[{i}]", f"{token} is no token id: at most {bounds.MAX_TOKEN_ID}")
    return biases, stops


def _parse_sampling(proto: generation_pb2.Sampling, violations: Violations) -> Sampling:
    values: dict[str, float | None] = {}
    for name, (least, most) in bounds.SAMPLING_BOUNDS.items():
        value = getattr(proto, name) if proto.HasField(name) else None
        values[name] = value
        if not (value is None or least <= value <= most):
            violations.add(f"sampling.{name}", f"{value}: {bounds.bounds_text(name)}")
    top_k = proto.top_k if proto.HasField("top_k") else None
    violations.check(
        top_k is None or top_k >= -1, "sampling.top_k", f"{top_k}: give 1 or more, or -1 for all"
    )
    return Sampling(**values, top_k=top_k, seed=proto.seed if proto.HasField("seed") else None)


def check_scheduling_fields(
    proto: generation_pb2.GenerateRequest | pooling_pb2.EmbedRequest | pooling_pb2.ScoreRequest,
    violations: Violations,
) -> None:
    """Appends violations of the fields that say how a request is served."""
    fault = violations.add
    if proto.HasField("slo"):
        slo = proto.slo
        for name in ("ttft", "tpot"):
            if slo.HasField(name):
                try:
                    seconds_of(getattr(slo, name))
                except ValueError as error:
                    fault(f"slo.{name}", str(error))
        if slo.slo_class not in _SLO_CLASSES:
            fault("slo.slo_class", f"{slo.slo_class} is no class")
    if abs(proto.priority) > _MAX_PRIORITY:
        fault("priority", f"{proto.priority}: give {-_MAX_PRIORITY} to {_MAX_PRIORITY}")
    session_id = proto.session_id if isinstance(proto, generation_pb2.GenerateRequest) else ""
    for name, value in (("session_id", session_id), ("idempotency_key", proto.idempotency_key)):
        if (size := len(value.encode())) > bounds.MAX_ID_BYTES:
            fault(name, f"{size} bytes: at most {bounds.MAX_ID_BYTES}")
    if "\0" in session_id:  # PostgreSQL rejects NUL: the row would block all later rows
        fault("session_id", f"{session_id[:140]!r}: leave NUL characters out")
    try:
        labels_json(proto.labels)
    except ValueError as error:
        fault("labels", str(error))
    if proto.end_user and not is_end_user(proto.end_user):
        fix = f"give at most {bounds.MAX_ID_BYTES} bytes, all printable"
        fault("end_user", f"{proto.end_user[:80]!r}: {fix}")
    cost = proto.max_cost_nano_usd
    if proto.HasField("max_cost_nano_usd") and not 0 < cost < bounds.MAX_NANO_USD:
        fault("max_cost_nano_usd", f"{cost}: give 1 to {bounds.MAX_NANO_USD - 1}, or leave it out")
