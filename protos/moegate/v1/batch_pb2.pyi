import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from moegate.v1 import generation_pb2 as _generation_pb2
from moegate.v1 import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BatchState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BATCH_STATE_UNSPECIFIED: _ClassVar[BatchState]
    BATCH_STATE_QUEUED: _ClassVar[BatchState]
    BATCH_STATE_RUNNING: _ClassVar[BatchState]
    BATCH_STATE_ENDED: _ClassVar[BatchState]
    BATCH_STATE_CANCELLED: _ClassVar[BatchState]
    BATCH_STATE_EXPIRED: _ClassVar[BatchState]
    BATCH_STATE_FAILED: _ClassVar[BatchState]
    BATCH_STATE_CANCELLING: _ClassVar[BatchState]
BATCH_STATE_UNSPECIFIED: BatchState
BATCH_STATE_QUEUED: BatchState
BATCH_STATE_RUNNING: BatchState
BATCH_STATE_ENDED: BatchState
BATCH_STATE_CANCELLED: BatchState
BATCH_STATE_EXPIRED: BatchState
BATCH_STATE_FAILED: BatchState
BATCH_STATE_CANCELLING: BatchState

class Batch(_message.Message):
    __slots__ = ("batch_id", "state", "requests", "succeeded", "failed", "created_at", "ended_at", "started_at", "complete_before", "charged_nano_usd", "unpriced", "prompt_tokens", "completion_tokens", "bad_lines", "faults", "endpoint", "metadata", "estimated_end", "estimated_nano_usd", "tenant")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_BEFORE_FIELD_NUMBER: _ClassVar[int]
    CHARGED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNPRICED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BAD_LINES_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_END_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    state: BatchState
    requests: int
    succeeded: int
    failed: int
    created_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    started_at: _timestamp_pb2.Timestamp
    complete_before: _timestamp_pb2.Timestamp
    charged_nano_usd: int
    unpriced: int
    prompt_tokens: int
    completion_tokens: int
    bad_lines: int
    faults: _containers.RepeatedCompositeFieldContainer[BatchFault]
    endpoint: str
    metadata: _containers.ScalarMap[str, str]
    estimated_end: _timestamp_pb2.Timestamp
    estimated_nano_usd: int
    tenant: str
    def __init__(self, batch_id: _Optional[str] = ..., state: _Optional[_Union[BatchState, str]] = ..., requests: _Optional[int] = ..., succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., complete_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., charged_nano_usd: _Optional[int] = ..., unpriced: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., bad_lines: _Optional[int] = ..., faults: _Optional[_Iterable[_Union[BatchFault, _Mapping]]] = ..., endpoint: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., estimated_end: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., estimated_nano_usd: _Optional[int] = ..., tenant: _Optional[str] = ...) -> None: ...

class BatchFault(_message.Message):
    __slots__ = ("line", "code", "message", "param")
    LINE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PARAM_FIELD_NUMBER: _ClassVar[int]
    line: int
    code: str
    message: str
    param: str
    def __init__(self, line: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., param: _Optional[str] = ...) -> None: ...

class SubmitBatchRequest(_message.Message):
    __slots__ = ("item_id", "request", "complete_before", "openai_lines", "endpoint", "max_cost_nano_usd", "metadata", "data_policy", "labels", "end_user")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_BEFORE_FIELD_NUMBER: _ClassVar[int]
    OPENAI_LINES_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DATA_POLICY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    END_USER_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    request: _generation_pb2.GenerateRequest
    complete_before: _timestamp_pb2.Timestamp
    openai_lines: bytes
    endpoint: str
    max_cost_nano_usd: int
    metadata: _containers.ScalarMap[str, str]
    data_policy: _generation_pb2.DataPolicy
    labels: _containers.ScalarMap[str, str]
    end_user: str
    def __init__(self, item_id: _Optional[str] = ..., request: _Optional[_Union[_generation_pb2.GenerateRequest, _Mapping]] = ..., complete_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., openai_lines: _Optional[bytes] = ..., endpoint: _Optional[str] = ..., max_cost_nano_usd: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ..., data_policy: _Optional[_Union[_generation_pb2.DataPolicy, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., end_user: _Optional[str] = ...) -> None: ...

class SubmitBatchResponse(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: Batch
    def __init__(self, batch: _Optional[_Union[Batch, _Mapping]] = ...) -> None: ...

class QuoteBatchRequest(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: SubmitBatchRequest
    def __init__(self, batch: _Optional[_Union[SubmitBatchRequest, _Mapping]] = ...) -> None: ...

class QuoteBatchResponse(_message.Message):
    __slots__ = ("requests", "bad_lines", "faults", "sampled", "refused", "refusal", "prompt_tokens", "output_tokens", "own_nano_usd", "remotes", "ahead", "end", "complete_before")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    BAD_LINES_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OWN_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    REMOTES_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_BEFORE_FIELD_NUMBER: _ClassVar[int]
    requests: int
    bad_lines: int
    faults: _containers.RepeatedCompositeFieldContainer[BatchFault]
    sampled: int
    refused: int
    refusal: str
    prompt_tokens: int
    output_tokens: int
    own_nano_usd: int
    remotes: _containers.RepeatedCompositeFieldContainer[BatchRemoteQuote]
    ahead: int
    end: _timestamp_pb2.Timestamp
    complete_before: _timestamp_pb2.Timestamp
    def __init__(self, requests: _Optional[int] = ..., bad_lines: _Optional[int] = ..., faults: _Optional[_Iterable[_Union[BatchFault, _Mapping]]] = ..., sampled: _Optional[int] = ..., refused: _Optional[int] = ..., refusal: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., own_nano_usd: _Optional[int] = ..., remotes: _Optional[_Iterable[_Union[BatchRemoteQuote, _Mapping]]] = ..., ahead: _Optional[int] = ..., end: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., complete_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class BatchRemoteQuote(_message.Message):
    __slots__ = ("remote", "nano_usd")
    REMOTE_FIELD_NUMBER: _ClassVar[int]
    NANO_USD_FIELD_NUMBER: _ClassVar[int]
    remote: str
    nano_usd: int
    def __init__(self, remote: _Optional[str] = ..., nano_usd: _Optional[int] = ...) -> None: ...

class GetBatchRequest(_message.Message):
    __slots__ = ("batch_id",)
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    def __init__(self, batch_id: _Optional[str] = ...) -> None: ...

class GetBatchResponse(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: Batch
    def __init__(self, batch: _Optional[_Union[Batch, _Mapping]] = ...) -> None: ...

class ListBatchesRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "all_tenants")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ALL_TENANTS_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    all_tenants: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., all_tenants: _Optional[bool] = ...) -> None: ...

class ListBatchesResponse(_message.Message):
    __slots__ = ("batches", "next_page_token")
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[Batch]
    next_page_token: str
    def __init__(self, batches: _Optional[_Iterable[_Union[Batch, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelBatchRequest(_message.Message):
    __slots__ = ("batch_id",)
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    def __init__(self, batch_id: _Optional[str] = ...) -> None: ...

class CancelBatchResponse(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: Batch
    def __init__(self, batch: _Optional[_Union[Batch, _Mapping]] = ...) -> None: ...

class StreamBatchResultsRequest(_message.Message):
    __slots__ = ("batch_id", "skip", "in_order")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    IN_ORDER_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    skip: int
    in_order: bool
    def __init__(self, batch_id: _Optional[str] = ..., skip: _Optional[int] = ..., in_order: _Optional[bool] = ...) -> None: ...

class StreamBatchResultsResponse(_message.Message):
    __slots__ = ("item_id", "response", "error", "openai_line")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    OPENAI_LINE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    response: _inference_pb2.GenerateOnceResponse
    error: BatchItemError
    openai_line: bytes
    def __init__(self, item_id: _Optional[str] = ..., response: _Optional[_Union[_inference_pb2.GenerateOnceResponse, _Mapping]] = ..., error: _Optional[_Union[BatchItemError, _Mapping]] = ..., openai_line: _Optional[bytes] = ...) -> None: ...

class BatchItemError(_message.Message):
    __slots__ = ("code", "message", "reason")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    reason: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
