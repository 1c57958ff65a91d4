"""A client's request: every field checked, then turned into a `Generation`.

Bounds are those of the API's field comments. A fault names the field, the value and the fix; faults
are reported together, as many as fit an answer.
"""

from __future__ import annotations

import math
import re
import secrets

from gateway import errors
from gateway.chat_input import Violations, parse_chat
from gateway.generation import Chat, Generation, Sampling
from moegate.v1 import generation_pb2

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
_MAX_STOPS = 4
_MAX_CHOICES = 16
_MAX_LOGPROBS = 20
_MAX_PRIORITY = 10
_MAX_ID_BYTES = 128
_MAX_MODEL_CHARS = 256
"""As the configuration's names. A longer one would not fit into the answer that it is unknown."""
_MAX_STOP_BYTES = 1024

_SAMPLING_BOUNDS = {
    "temperature": (0.0, 2.0),
    "top_p": (math.ulp(0.0), 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (math.ulp(0.0), 100.0),
}
_INT64_MAX = 2**63 - 1


def parse_generation(
    proto: generation_pb2.GenerateRequest, default_max_output_tokens: int
) -> Generation:
    """The request as a domain value. Raises RpcError (INVALID_ARGUMENT) that names every fault."""
    violations = Violations()
    generation_input = parse_input(proto, violations)
    sampling = Sampling()
    if proto.HasField("sampling"):
        sampling = _parse_sampling(proto.sampling, violations)
    _check_scheduling_fields(proto, violations)
    check = violations.check
    request_id = proto.request_id or secrets.token_hex(12)
    check(
        _REQUEST_ID.match(request_id) is not None,
        "request_id",
        f'{proto.request_id[:140]!r}: give at most 128 letters, digits or "._:-"',
    )
    max_output_tokens = default_max_output_tokens
    if proto.HasField("max_output_tokens"):
        max_output_tokens = proto.max_output_tokens
        check(max_output_tokens > 0, "max_output_tokens", "0: give at least 1, or leave it out")
    check(len(proto.stop) <= _MAX_STOPS, "stop", f"{len(proto.stop)} texts: at most {_MAX_STOPS}")
    for i, stop in enumerate(proto.stop):
        size = len(stop.encode())
        check(
            0 < size <= _MAX_STOP_BYTES,
            f"stop[{i}]",
            f"{size} bytes: give 1 to {_MAX_STOP_BYTES}",
        )
    check(proto.choices <= _MAX_CHOICES, "choices", f"{proto.choices}: at most {_MAX_CHOICES}")
    check(proto.logprobs <= _MAX_LOGPROBS, "logprobs", f"{proto.logprobs}: at most {_MAX_LOGPROBS}")
    if violations:
        raise errors.invalid(violations)
    return Generation(
        request_id=request_id,
        model=proto.model,
        input=generation_input,
        max_output_tokens=max_output_tokens,
        sampling=sampling,
        stop=tuple(proto.stop),
        choices=proto.choices or 1,
        logprobs=proto.logprobs if proto.HasField("logprobs") else None,
        ignore_eos=proto.ignore_eos,
    )


def parse_input(
    proto: generation_pb2.GenerateRequest, violations: Violations
) -> Chat | str | tuple[int, ...]:
    """Model name and input of a request; faults are noted."""
    violations.check(bool(proto.model), "model", "empty: name a model that ListModels gives")
    violations.check(
        len(proto.model) <= _MAX_MODEL_CHARS,
        "model",
        f"{len(proto.model)} characters: at most {_MAX_MODEL_CHARS}",
    )
    match proto.WhichOneof("input"):
        case "chat":
            return parse_chat(proto.chat, violations)
        case "prompt":
            violations.check(bool(proto.prompt), "prompt", "empty: give some text")
            return proto.prompt
        case "prompt_tokens":
            token_ids = tuple(proto.prompt_tokens.token_ids)
            violations.check(bool(token_ids), "prompt_tokens.token_ids", "empty: give some tokens")
            return token_ids
        case _:
            violations.add("input", "not set: give chat, prompt or prompt_tokens")
            return ""


def _parse_sampling(proto: generation_pb2.Sampling, violations: Violations) -> Sampling:
    values: dict[str, float | None] = {}
    for name, (least, most) in _SAMPLING_BOUNDS.items():
        value = getattr(proto, name) if proto.HasField(name) else None
        values[name] = value
        lower = "above 0" if least == math.ulp(0.0) else f"{least:g}"
        violations.check(
            value is None or least <= value <= most,
            f"sampling.{name}",
            f"{value}: give {lower} to {most:g}",
        )
    top_k = proto.top_k if proto.HasField("top_k") else None
    violations.check(
        top_k is None or top_k >= -1, "sampling.top_k", f"{top_k}: give 1 or more, or -1 for all"
    )
    return Sampling(**values, top_k=top_k, seed=proto.seed if proto.HasField("seed") else None)


def _check_scheduling_fields(proto: generation_pb2.GenerateRequest, violations: Violations) -> None:
    check = violations.check
    for name in ("ttft", "tpot"):
        if proto.slo.HasField(name):
            nanos = getattr(proto.slo, name).ToNanoseconds()
            check(nanos > 0, f"slo.{name}", f"{nanos / 1e9:g} s: give a positive duration")
    check(
        proto.slo.slo_class in generation_pb2.SloClass.values(),
        "slo.slo_class",
        f"{proto.slo.slo_class} is no class",
    )
    check(
        abs(proto.priority) <= _MAX_PRIORITY,
        "priority",
        f"{proto.priority}: give {-_MAX_PRIORITY} to {_MAX_PRIORITY}",
    )
    size = len(proto.session_id.encode())
    check(size <= _MAX_ID_BYTES, "session_id", f"{size} bytes: at most {_MAX_ID_BYTES}")
    size = len(proto.idempotency_key.encode())
    check(size <= _MAX_ID_BYTES, "idempotency_key", f"{size} bytes: at most {_MAX_ID_BYTES}")
    check(
        not proto.HasField("max_cost_nano_usd") or proto.max_cost_nano_usd > 0,
        "max_cost_nano_usd",
        f"{proto.max_cost_nano_usd}: give at least 1, or leave it out",
    )
