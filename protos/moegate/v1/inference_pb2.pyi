import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from moegate.v1 import generation_pb2 as _generation_pb2
from moegate.v1 import pooling_pb2 as _pooling_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelTask(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_TASK_UNSPECIFIED: _ClassVar[ModelTask]
    MODEL_TASK_GENERATE: _ClassVar[ModelTask]
    MODEL_TASK_EMBED: _ClassVar[ModelTask]
    MODEL_TASK_SCORE: _ClassVar[ModelTask]
MODEL_TASK_UNSPECIFIED: ModelTask
MODEL_TASK_GENERATE: ModelTask
MODEL_TASK_EMBED: ModelTask
MODEL_TASK_SCORE: ModelTask

class GenerateOnceRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: _generation_pb2.GenerateRequest
    def __init__(self, request: _Optional[_Union[_generation_pb2.GenerateRequest, _Mapping]] = ...) -> None: ...

class GenerateOnceResponse(_message.Message):
    __slots__ = ("choices", "done")
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    choices: _containers.RepeatedCompositeFieldContainer[_generation_pb2.ChoiceDelta]
    done: _generation_pb2.Done
    def __init__(self, choices: _Optional[_Iterable[_Union[_generation_pb2.ChoiceDelta, _Mapping]]] = ..., done: _Optional[_Union[_generation_pb2.Done, _Mapping]] = ...) -> None: ...

class CountTokensRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: _generation_pb2.GenerateRequest
    def __init__(self, request: _Optional[_Union[_generation_pb2.GenerateRequest, _Mapping]] = ...) -> None: ...

class CountTokensResponse(_message.Message):
    __slots__ = ("prompt_tokens", "exact", "context_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    exact: bool
    context_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., exact: _Optional[bool] = ..., context_tokens: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "context_tokens", "local_replicas_serving", "local_replicas", "remotes", "tasks", "adapter_of")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_REPLICAS_SERVING_FIELD_NUMBER: _ClassVar[int]
    LOCAL_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    REMOTES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_OF_FIELD_NUMBER: _ClassVar[int]
    name: str
    context_tokens: int
    local_replicas_serving: int
    local_replicas: int
    remotes: int
    tasks: _containers.RepeatedScalarFieldContainer[ModelTask]
    adapter_of: str
    def __init__(self, name: _Optional[str] = ..., context_tokens: _Optional[int] = ..., local_replicas_serving: _Optional[int] = ..., local_replicas: _Optional[int] = ..., remotes: _Optional[int] = ..., tasks: _Optional[_Iterable[_Union[ModelTask, str]]] = ..., adapter_of: _Optional[str] = ...) -> None: ...

class QuoteRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: _generation_pb2.GenerateRequest
    def __init__(self, request: _Optional[_Union[_generation_pb2.GenerateRequest, _Mapping]] = ...) -> None: ...

class QuoteResponse(_message.Message):
    __slots__ = ("candidates",)
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    candidates: _containers.RepeatedCompositeFieldContainer[QuoteCandidate]
    def __init__(self, candidates: _Optional[_Iterable[_Union[QuoteCandidate, _Mapping]]] = ...) -> None: ...

class QuoteCandidate(_message.Message):
    __slots__ = ("placement", "kind", "chosen", "ttft", "tpot", "marginal_nano_usd", "charged_nano_usd", "reason", "feasible", "expected_cached_tokens", "harmed_streams")
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    TTFT_FIELD_NUMBER: _ClassVar[int]
    TPOT_FIELD_NUMBER: _ClassVar[int]
    MARGINAL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CHARGED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FEASIBLE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    HARMED_STREAMS_FIELD_NUMBER: _ClassVar[int]
    placement: str
    kind: _generation_pb2.PlacementKind
    chosen: bool
    ttft: _duration_pb2.Duration
    tpot: _duration_pb2.Duration
    marginal_nano_usd: int
    charged_nano_usd: int
    reason: str
    feasible: bool
    expected_cached_tokens: int
    harmed_streams: float
    def __init__(self, placement: _Optional[str] = ..., kind: _Optional[_Union[_generation_pb2.PlacementKind, str]] = ..., chosen: _Optional[bool] = ..., ttft: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., tpot: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., marginal_nano_usd: _Optional[int] = ..., charged_nano_usd: _Optional[int] = ..., reason: _Optional[str] = ..., feasible: _Optional[bool] = ..., expected_cached_tokens: _Optional[int] = ..., harmed_streams: _Optional[float] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("request_id", "key_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    key_id: str
    def __init__(self, request_id: _Optional[str] = ..., key_id: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("request_id", "model", "age", "attempt", "tier", "placement", "reason", "prompt_tokens", "expected_output_tokens", "candidates")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    age: _duration_pb2.Duration
    attempt: int
    tier: str
    placement: str
    reason: str
    prompt_tokens: int
    expected_output_tokens: float
    candidates: _containers.RepeatedCompositeFieldContainer[QuoteCandidate]
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., attempt: _Optional[int] = ..., tier: _Optional[str] = ..., placement: _Optional[str] = ..., reason: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., expected_output_tokens: _Optional[float] = ..., candidates: _Optional[_Iterable[_Union[QuoteCandidate, _Mapping]]] = ...) -> None: ...
