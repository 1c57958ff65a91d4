"""Error answers with the status, `type`, `param` and text of vLLM.

The `type` is "BadRequestError" for checks of the engine, "Bad Request" for checks of the schema,
and "Service Unavailable" for a full queue.
"""

from __future__ import annotations

import re

import msgspec

from moegate.simulated_vllm.wire import encode

ENGINE_DIED = "EngineCore encountered an issue. See stack trace (above) for the root cause."
_PATH = re.compile(r"^(?P<what>.*) - at `\$(?P<path>[^`]*)`$")
_MISSING = re.compile(r"missing required field `(?P<field>\w+)`")


class Refused(Exception):
    """The request gets an error answer. `body`: its JSON."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        self.body = encode(
            {"error": {"message": message, "type": kind, "param": param, "code": status}}
        )


class BadForm(Refused):
    """A regex, grammar or schema that cannot be compiled. The engine finds out when it takes the
    request, so a stream has begun: it gets the error as an event."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "BadRequestError", message)


def bad_value(param: str | None, message: str, value: object = None) -> Refused:
    """A value that the engine refuses. vLLM appends the name and the value where it knows them."""
    known = {"parameter": param, "value": value}
    suffix = ", ".join(f"{name}={given}" for name, given in known.items() if given is not None)
    if suffix:
        message = f"{message} ({suffix})"
    return Refused(400, "BadRequestError", message, param)


def bad_shape(kind: str, location: str, message: str) -> Refused:
    """A body that the schema refuses. `location`: such as "body.max_tokens"."""
    detail = {"type": kind, "loc": location, "msg": message}
    return Refused(400, "Bad Request", f"1 validation error:\n  {detail}", location)


def bad_json(error: msgspec.DecodeError | RecursionError) -> Refused:
    """A body that is not JSON, does not match the schema, or is nested too deeply."""
    if not isinstance(error, msgspec.ValidationError):
        return bad_shape("json_invalid", "body", str(error))
    text = str(error)
    missing = _MISSING.search(text)
    if missing is not None:
        return bad_shape("missing", f"body.{missing['field']}", "Field required")
    place = _PATH.match(text)
    if place is None:
        return bad_shape("value_error", "body", text)
    return bad_shape("value_error", f"body{place['path']}", place["what"])


def unknown_model(model: str, served: str) -> Refused:
    """The model is not served."""
    text = f"The model `{model}` does not exist. Valid aliases: {served}."
    return Refused(404, "NotFoundError", text, "model")


def unknown_pooling_model(model: str) -> Refused:
    """The same, where nothing is generated."""
    return Refused(404, "NotFoundError", f"The model `{model}` does not exist.")


def prompt_too_long(tokens: int, max_model_len: int, counted_in_full: bool) -> Refused:
    """The prompt exceeds the context. vLLM stops counting text one token above the limit."""
    shown = tokens if counted_in_full else max_model_len + 1
    qualifier = "at least " if shown == max_model_len + 1 else ""
    return bad_value(
        "input_tokens",
        f"This model's maximum context length is {max_model_len} tokens. However, your prompt"
        f" contains {qualifier}{shown} input tokens, which exceeds this limit even without any"
        " output tokens. Please reduce the length of the input prompt.",
        shown,
    )


def queue_full() -> Refused:
    """`max_num_queued_reqs` is reached. vLLM sends no Retry-After, and `param` is null."""
    return Refused(
        503,
        "Service Unavailable",
        "The engine is currently busy and cannot accept new requests. Please try again later or"
        " on a different instance.",
    )


def engine_died() -> Refused:
    """Every request fails once the engine process has ended."""
    return Refused(500, "InternalServerError", ENGINE_DIED)


def draining() -> Refused:
    """A new request after SIGTERM with a shutdown timeout gets neither a 503 nor a closed port."""
    return Refused(500, "InternalServerError", "cannot schedule new futures after shutdown")


def status_fault(status: int, retry_after_s: int | None) -> Refused:
    """Any status, for the fault `status`. vLLM itself never sends 429; proxies in front of it
    do."""
    if status == 503 and retry_after_s is None:
        return queue_full()
    if status == 429 and retry_after_s is None:
        retry_after_s = 1
    text = f"A simulated fault: HTTP {status}."
    kind = "Too Many Requests" if status == 429 else "SimulatedFault"
    return Refused(status, kind, text, retry_after_s=retry_after_s)
