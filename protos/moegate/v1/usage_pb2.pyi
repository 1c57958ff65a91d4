import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from moegate.v1 import generation_pb2 as _generation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SpendGroup(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPEND_GROUP_UNSPECIFIED: _ClassVar[SpendGroup]
    SPEND_GROUP_TENANT: _ClassVar[SpendGroup]
    SPEND_GROUP_KEY: _ClassVar[SpendGroup]
    SPEND_GROUP_MODEL: _ClassVar[SpendGroup]
    SPEND_GROUP_HOUR: _ClassVar[SpendGroup]
    SPEND_GROUP_DAY: _ClassVar[SpendGroup]
    SPEND_GROUP_WEEK: _ClassVar[SpendGroup]
    SPEND_GROUP_PLACEMENT: _ClassVar[SpendGroup]
    SPEND_GROUP_SESSION: _ClassVar[SpendGroup]
    SPEND_GROUP_MONTH: _ClassVar[SpendGroup]
    SPEND_GROUP_YEAR: _ClassVar[SpendGroup]
    SPEND_GROUP_POOL: _ClassVar[SpendGroup]
    SPEND_GROUP_KIND: _ClassVar[SpendGroup]
    SPEND_GROUP_END_USER: _ClassVar[SpendGroup]
    SPEND_GROUP_LABEL: _ClassVar[SpendGroup]

class SpendOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPEND_ORDER_UNSPECIFIED: _ClassVar[SpendOrder]
    SPEND_ORDER_SPEND: _ClassVar[SpendOrder]
    SPEND_ORDER_TOKENS: _ClassVar[SpendOrder]

class SharingRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHARING_RULE_UNSPECIFIED: _ClassVar[SharingRule]
    SHARING_RULE_USE: _ClassVar[SharingRule]
    SHARING_RULE_WEIGHT: _ClassVar[SharingRule]
    SHARING_RULE_ROW: _ClassVar[SharingRule]

class RequestOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REQUEST_ORDER_UNSPECIFIED: _ClassVar[RequestOrder]
    REQUEST_ORDER_METERED: _ClassVar[RequestOrder]
    REQUEST_ORDER_TOKENS: _ClassVar[RequestOrder]
    REQUEST_ORDER_DURATION: _ClassVar[RequestOrder]
    REQUEST_ORDER_ENDED: _ClassVar[RequestOrder]

class PriceSubject(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRICE_SUBJECT_UNSPECIFIED: _ClassVar[PriceSubject]
    PRICE_SUBJECT_GPU_HOUR: _ClassVar[PriceSubject]
    PRICE_SUBJECT_REMOTE_TOKENS: _ClassVar[PriceSubject]
    PRICE_SUBJECT_SHOWBACK: _ClassVar[PriceSubject]

class FigureSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIGURE_SOURCE_UNSPECIFIED: _ClassVar[FigureSource]
    FIGURE_SOURCE_CONFIGURED: _ClassVar[FigureSource]
    FIGURE_SOURCE_TOLD: _ClassVar[FigureSource]
    FIGURE_SOURCE_DERIVED: _ClassVar[FigureSource]
    FIGURE_SOURCE_ASSUMED: _ClassVar[FigureSource]
    FIGURE_SOURCE_UNKNOWN: _ClassVar[FigureSource]
SPEND_GROUP_UNSPECIFIED: SpendGroup
SPEND_GROUP_TENANT: SpendGroup
SPEND_GROUP_KEY: SpendGroup
SPEND_GROUP_MODEL: SpendGroup
SPEND_GROUP_HOUR: SpendGroup
SPEND_GROUP_DAY: SpendGroup
SPEND_GROUP_WEEK: SpendGroup
SPEND_GROUP_PLACEMENT: SpendGroup
SPEND_GROUP_SESSION: SpendGroup
SPEND_GROUP_MONTH: SpendGroup
SPEND_GROUP_YEAR: SpendGroup
SPEND_GROUP_POOL: SpendGroup
SPEND_GROUP_KIND: SpendGroup
SPEND_GROUP_END_USER: SpendGroup
SPEND_GROUP_LABEL: SpendGroup
SPEND_ORDER_UNSPECIFIED: SpendOrder
SPEND_ORDER_SPEND: SpendOrder
SPEND_ORDER_TOKENS: SpendOrder
SHARING_RULE_UNSPECIFIED: SharingRule
SHARING_RULE_USE: SharingRule
SHARING_RULE_WEIGHT: SharingRule
SHARING_RULE_ROW: SharingRule
REQUEST_ORDER_UNSPECIFIED: RequestOrder
REQUEST_ORDER_METERED: RequestOrder
REQUEST_ORDER_TOKENS: RequestOrder
REQUEST_ORDER_DURATION: RequestOrder
REQUEST_ORDER_ENDED: RequestOrder
PRICE_SUBJECT_UNSPECIFIED: PriceSubject
PRICE_SUBJECT_GPU_HOUR: PriceSubject
PRICE_SUBJECT_REMOTE_TOKENS: PriceSubject
PRICE_SUBJECT_SHOWBACK: PriceSubject
FIGURE_SOURCE_UNSPECIFIED: FigureSource
FIGURE_SOURCE_CONFIGURED: FigureSource
FIGURE_SOURCE_TOLD: FigureSource
FIGURE_SOURCE_DERIVED: FigureSource
FIGURE_SOURCE_ASSUMED: FigureSource
FIGURE_SOURCE_UNKNOWN: FigureSource

class GetSpendRequest(_message.Message):
    __slots__ = ("to", "group_by", "tenant", "key_id", "model", "order_by", "limit", "label")
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    to: _timestamp_pb2.Timestamp
    group_by: _containers.RepeatedScalarFieldContainer[SpendGroup]
    tenant: str
    key_id: str
    model: str
    order_by: SpendOrder
    limit: int
    label: str
    def __init__(self, to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., group_by: _Optional[_Iterable[_Union[SpendGroup, str]]] = ..., tenant: _Optional[str] = ..., key_id: _Optional[str] = ..., model: _Optional[str] = ..., order_by: _Optional[_Union[SpendOrder, str]] = ..., limit: _Optional[int] = ..., label: _Optional[str] = ..., **kwargs) -> None: ...

class GetSpendResponse(_message.Message):
    __slots__ = ("rows", "truncated")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[SpendRow]
    truncated: bool
    def __init__(self, rows: _Optional[_Iterable[_Union[SpendRow, _Mapping]]] = ..., truncated: _Optional[bool] = ...) -> None: ...

class SpendRow(_message.Message):
    __slots__ = ("group", "requests", "uncached_input_tokens", "cached_input_tokens", "output_tokens", "metered_nano_usd", "charged_nano_usd", "unpriced_attempts", "estimated_attempts", "corrected_nano_usd", "recovered_nano_usd", "cheapest_remote_nano_usd", "cheapest_remote_attempts", "attempts", "metered_attempts", "own_nano_usd", "remote_nano_usd", "wasted_nano_usd", "uncached_input_nano_usd", "cached_input_nano_usd", "output_nano_usd", "cache_write_tokens")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    UNCACHED_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    METERED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CHARGED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNPRICED_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    RECOVERED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CHEAPEST_REMOTE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CHEAPEST_REMOTE_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    METERED_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    OWN_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    REMOTE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    WASTED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNCACHED_INPUT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    group: _containers.RepeatedScalarFieldContainer[str]
    requests: int
    uncached_input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    metered_nano_usd: int
    charged_nano_usd: int
    unpriced_attempts: int
    estimated_attempts: int
    corrected_nano_usd: int
    recovered_nano_usd: int
    cheapest_remote_nano_usd: int
    cheapest_remote_attempts: int
    attempts: int
    metered_attempts: int
    own_nano_usd: int
    remote_nano_usd: int
    wasted_nano_usd: int
    uncached_input_nano_usd: int
    cached_input_nano_usd: int
    output_nano_usd: int
    cache_write_tokens: int
    def __init__(self, group: _Optional[_Iterable[str]] = ..., requests: _Optional[int] = ..., uncached_input_tokens: _Optional[int] = ..., cached_input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., metered_nano_usd: _Optional[int] = ..., charged_nano_usd: _Optional[int] = ..., unpriced_attempts: _Optional[int] = ..., estimated_attempts: _Optional[int] = ..., corrected_nano_usd: _Optional[int] = ..., recovered_nano_usd: _Optional[int] = ..., cheapest_remote_nano_usd: _Optional[int] = ..., cheapest_remote_attempts: _Optional[int] = ..., attempts: _Optional[int] = ..., metered_attempts: _Optional[int] = ..., own_nano_usd: _Optional[int] = ..., remote_nano_usd: _Optional[int] = ..., wasted_nano_usd: _Optional[int] = ..., uncached_input_nano_usd: _Optional[int] = ..., cached_input_nano_usd: _Optional[int] = ..., output_nano_usd: _Optional[int] = ..., cache_write_tokens: _Optional[int] = ...) -> None: ...

class GetStatementRequest(_message.Message):
    __slots__ = ("to", "group_by", "period", "sharing", "weights")
    class WeightsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    SHARING_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    to: _timestamp_pb2.Timestamp
    group_by: _containers.RepeatedScalarFieldContainer[SpendGroup]
    period: SpendGroup
    sharing: SharingRule
    weights: _containers.ScalarMap[str, int]
    def __init__(self, to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., group_by: _Optional[_Iterable[_Union[SpendGroup, str]]] = ..., period: _Optional[_Union[SpendGroup, str]] = ..., sharing: _Optional[_Union[SharingRule, str]] = ..., weights: _Optional[_Mapping[str, int]] = ..., **kwargs) -> None: ...

class GetStatementResponse(_message.Message):
    __slots__ = ("statements", "booked_until")
    STATEMENTS_FIELD_NUMBER: _ClassVar[int]
    BOOKED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    statements: _containers.RepeatedCompositeFieldContainer[Statement]
    booked_until: _timestamp_pb2.Timestamp
    def __init__(self, statements: _Optional[_Iterable[_Union[Statement, _Mapping]]] = ..., booked_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Statement(_message.Message):
    __slots__ = ("period", "lines", "gpu_bill_nano_usd", "remote_bill_nano_usd", "idle_nano_usd", "unavailable_nano_usd", "external_nano_usd", "unobserved_nano_usd", "unsettled_nano_usd", "unshared_nano_usd", "wasted_nano_usd", "unpriced", "pools", "overflow")
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    GPU_BILL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    REMOTE_BILL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    IDLE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNOBSERVED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNSETTLED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNSHARED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    WASTED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNPRICED_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    OVERFLOW_FIELD_NUMBER: _ClassVar[int]
    period: str
    lines: _containers.RepeatedCompositeFieldContainer[StatementLine]
    gpu_bill_nano_usd: int
    remote_bill_nano_usd: int
    idle_nano_usd: int
    unavailable_nano_usd: int
    external_nano_usd: int
    unobserved_nano_usd: int
    unsettled_nano_usd: int
    unshared_nano_usd: int
    wasted_nano_usd: int
    unpriced: _duration_pb2.Duration
    pools: _containers.RepeatedCompositeFieldContainer[PoolBill]
    overflow: _containers.RepeatedCompositeFieldContainer[ModelOverflow]
    def __init__(self, period: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[StatementLine, _Mapping]]] = ..., gpu_bill_nano_usd: _Optional[int] = ..., remote_bill_nano_usd: _Optional[int] = ..., idle_nano_usd: _Optional[int] = ..., unavailable_nano_usd: _Optional[int] = ..., external_nano_usd: _Optional[int] = ..., unobserved_nano_usd: _Optional[int] = ..., unsettled_nano_usd: _Optional[int] = ..., unshared_nano_usd: _Optional[int] = ..., wasted_nano_usd: _Optional[int] = ..., unpriced: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., pools: _Optional[_Iterable[_Union[PoolBill, _Mapping]]] = ..., overflow: _Optional[_Iterable[_Union[ModelOverflow, _Mapping]]] = ...) -> None: ...

class ModelOverflow(_message.Message):
    __slots__ = ("model", "requests", "tokens", "remote_nano_usd", "own_nano_usd")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    REMOTE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    OWN_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    model: str
    requests: int
    tokens: int
    remote_nano_usd: int
    own_nano_usd: int
    def __init__(self, model: _Optional[str] = ..., requests: _Optional[int] = ..., tokens: _Optional[int] = ..., remote_nano_usd: _Optional[int] = ..., own_nano_usd: _Optional[int] = ...) -> None: ...

class StatementLine(_message.Message):
    __slots__ = ("group", "own_nano_usd", "remote_nano_usd", "shared_nano_usd", "charged_nano_usd")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    OWN_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    REMOTE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    SHARED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CHARGED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    group: _containers.RepeatedScalarFieldContainer[str]
    own_nano_usd: int
    remote_nano_usd: int
    shared_nano_usd: int
    charged_nano_usd: int
    def __init__(self, group: _Optional[_Iterable[str]] = ..., own_nano_usd: _Optional[int] = ..., remote_nano_usd: _Optional[int] = ..., shared_nano_usd: _Optional[int] = ..., charged_nano_usd: _Optional[int] = ...) -> None: ...

class PoolBill(_message.Message):
    __slots__ = ("pool", "bill_nano_usd", "accounts", "uncached_input_tokens", "cached_input_tokens", "output_tokens", "utilisation", "rates")
    POOL_FIELD_NUMBER: _ClassVar[int]
    BILL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    UNCACHED_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_FIELD_NUMBER: _ClassVar[int]
    RATES_FIELD_NUMBER: _ClassVar[int]
    pool: str
    bill_nano_usd: int
    accounts: _containers.RepeatedCompositeFieldContainer[PoolAccount]
    uncached_input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    utilisation: float
    rates: _containers.RepeatedCompositeFieldContainer[PoolRate]
    def __init__(self, pool: _Optional[str] = ..., bill_nano_usd: _Optional[int] = ..., accounts: _Optional[_Iterable[_Union[PoolAccount, _Mapping]]] = ..., uncached_input_tokens: _Optional[int] = ..., cached_input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., utilisation: _Optional[float] = ..., rates: _Optional[_Iterable[_Union[PoolRate, _Mapping]]] = ...) -> None: ...

class ListRequestsRequest(_message.Message):
    __slots__ = ("to", "tenant", "key_id", "model", "placement", "session_id", "outcome", "min_charged_nano_usd", "order_by", "limit", "labels", "end_user")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MIN_CHARGED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    END_USER_FIELD_NUMBER: _ClassVar[int]
    to: _timestamp_pb2.Timestamp
    tenant: str
    key_id: str
    model: str
    placement: str
    session_id: str
    outcome: str
    min_charged_nano_usd: int
    order_by: RequestOrder
    limit: int
    labels: _containers.ScalarMap[str, str]
    end_user: str
    def __init__(self, to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., tenant: _Optional[str] = ..., key_id: _Optional[str] = ..., model: _Optional[str] = ..., placement: _Optional[str] = ..., session_id: _Optional[str] = ..., outcome: _Optional[str] = ..., min_charged_nano_usd: _Optional[int] = ..., order_by: _Optional[_Union[RequestOrder, str]] = ..., limit: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., end_user: _Optional[str] = ..., **kwargs) -> None: ...

class ListRequestsResponse(_message.Message):
    __slots__ = ("requests", "truncated")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RequestCost]
    truncated: bool
    def __init__(self, requests: _Optional[_Iterable[_Union[RequestCost, _Mapping]]] = ..., truncated: _Optional[bool] = ...) -> None: ...

class RequestCost(_message.Message):
    __slots__ = ("request_id", "tenant", "key_id", "session_id", "model", "slo_class", "placements", "outcome", "attempts", "started_at", "ended_at", "prompt_tokens", "cached_tokens", "completion_tokens", "metered_nano_usd", "charged_nano_usd")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SLO_CLASS_FIELD_NUMBER: _ClassVar[int]
    PLACEMENTS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    METERED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CHARGED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    tenant: str
    key_id: str
    session_id: str
    model: str
    slo_class: str
    placements: _containers.RepeatedScalarFieldContainer[str]
    outcome: str
    attempts: int
    started_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    metered_nano_usd: int
    charged_nano_usd: int
    def __init__(self, request_id: _Optional[str] = ..., tenant: _Optional[str] = ..., key_id: _Optional[str] = ..., session_id: _Optional[str] = ..., model: _Optional[str] = ..., slo_class: _Optional[str] = ..., placements: _Optional[_Iterable[str]] = ..., outcome: _Optional[str] = ..., attempts: _Optional[int] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., metered_nano_usd: _Optional[int] = ..., charged_nano_usd: _Optional[int] = ...) -> None: ...

class GetOutlookRequest(_message.Message):
    __slots__ = ("tenant", "key_id")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    key_id: str
    def __init__(self, tenant: _Optional[str] = ..., key_id: _Optional[str] = ...) -> None: ...

class GetOutlookResponse(_message.Message):
    __slots__ = ("at", "month_to_date", "last_month_to_date", "last_month", "forecast_charged_nano_usd", "forecast_metered_nano_usd", "budgets")
    AT_FIELD_NUMBER: _ClassVar[int]
    MONTH_TO_DATE_FIELD_NUMBER: _ClassVar[int]
    LAST_MONTH_TO_DATE_FIELD_NUMBER: _ClassVar[int]
    LAST_MONTH_FIELD_NUMBER: _ClassVar[int]
    FORECAST_CHARGED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    FORECAST_METERED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    month_to_date: SpendRow
    last_month_to_date: SpendRow
    last_month: SpendRow
    forecast_charged_nano_usd: int
    forecast_metered_nano_usd: int
    budgets: _containers.RepeatedCompositeFieldContainer[BudgetOutlook]
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., month_to_date: _Optional[_Union[SpendRow, _Mapping]] = ..., last_month_to_date: _Optional[_Union[SpendRow, _Mapping]] = ..., last_month: _Optional[_Union[SpendRow, _Mapping]] = ..., forecast_charged_nano_usd: _Optional[int] = ..., forecast_metered_nano_usd: _Optional[int] = ..., budgets: _Optional[_Iterable[_Union[BudgetOutlook, _Mapping]]] = ...) -> None: ...

class BudgetOutlook(_message.Message):
    __slots__ = ("tenant", "key_id", "period", "cap_nano_usd", "spent_nano_usd", "hard", "ends_at", "forecast_nano_usd", "reached_at")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    CAP_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    SPENT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    HARD_FIELD_NUMBER: _ClassVar[int]
    ENDS_AT_FIELD_NUMBER: _ClassVar[int]
    FORECAST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    REACHED_AT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    key_id: str
    period: str
    cap_nano_usd: int
    spent_nano_usd: int
    hard: bool
    ends_at: _timestamp_pb2.Timestamp
    forecast_nano_usd: int
    reached_at: _timestamp_pb2.Timestamp
    def __init__(self, tenant: _Optional[str] = ..., key_id: _Optional[str] = ..., period: _Optional[str] = ..., cap_nano_usd: _Optional[int] = ..., spent_nano_usd: _Optional[int] = ..., hard: _Optional[bool] = ..., ends_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., forecast_nano_usd: _Optional[int] = ..., reached_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ExportAttemptsRequest(_message.Message):
    __slots__ = ("to", "tenant", "request_id")
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    to: _timestamp_pb2.Timestamp
    tenant: str
    request_id: str
    def __init__(self, to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., tenant: _Optional[str] = ..., request_id: _Optional[str] = ..., **kwargs) -> None: ...

class ExportAttemptsResponse(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[AttemptRow]
    def __init__(self, rows: _Optional[_Iterable[_Union[AttemptRow, _Mapping]]] = ...) -> None: ...

class AttemptRow(_message.Message):
    __slots__ = ("epoch", "seq", "state", "request_id", "attempt", "key_id", "tenant", "session_id", "model", "slo_class", "placement", "pool", "kind", "outcome", "started_at", "ended_at", "prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "reasoning_tokens", "metered_nano_usd", "charged_nano_usd", "budgeted_nano_usd", "basis", "price_row_id", "parts_json", "cheapest_remote_nano_usd", "last_attempt", "lease_id", "note", "end_user", "labels_json")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SLO_CLASS_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASONING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    METERED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CHARGED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    BUDGETED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    PRICE_ROW_ID_FIELD_NUMBER: _ClassVar[int]
    PARTS_JSON_FIELD_NUMBER: _ClassVar[int]
    CHEAPEST_REMOTE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    LAST_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    END_USER_FIELD_NUMBER: _ClassVar[int]
    LABELS_JSON_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    seq: int
    state: str
    request_id: str
    attempt: int
    key_id: str
    tenant: str
    session_id: str
    model: str
    slo_class: str
    placement: str
    pool: str
    kind: str
    outcome: str
    started_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    metered_nano_usd: int
    charged_nano_usd: int
    budgeted_nano_usd: int
    basis: str
    price_row_id: str
    parts_json: str
    cheapest_remote_nano_usd: int
    last_attempt: bool
    lease_id: str
    note: str
    end_user: str
    labels_json: str
    def __init__(self, epoch: _Optional[str] = ..., seq: _Optional[int] = ..., state: _Optional[str] = ..., request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., key_id: _Optional[str] = ..., tenant: _Optional[str] = ..., session_id: _Optional[str] = ..., model: _Optional[str] = ..., slo_class: _Optional[str] = ..., placement: _Optional[str] = ..., pool: _Optional[str] = ..., kind: _Optional[str] = ..., outcome: _Optional[str] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., cache_write_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., reasoning_tokens: _Optional[int] = ..., metered_nano_usd: _Optional[int] = ..., charged_nano_usd: _Optional[int] = ..., budgeted_nano_usd: _Optional[int] = ..., basis: _Optional[str] = ..., price_row_id: _Optional[str] = ..., parts_json: _Optional[str] = ..., cheapest_remote_nano_usd: _Optional[int] = ..., last_attempt: _Optional[bool] = ..., lease_id: _Optional[str] = ..., note: _Optional[str] = ..., end_user: _Optional[str] = ..., labels_json: _Optional[str] = ...) -> None: ...

class GetPoolCostRequest(_message.Message):
    __slots__ = ("pool", "window")
    POOL_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    pool: str
    window: _duration_pb2.Duration
    def __init__(self, pool: _Optional[str] = ..., window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class GetPoolCostResponse(_message.Message):
    __slots__ = ("bill_nano_usd", "accounts", "rates", "utilisation", "covered", "unpriced", "charged_nano_usd", "uncached_input_tokens", "cached_input_tokens", "output_tokens", "prefill_utilisation", "decode_utilisation", "warning", "load", "remotes")
    BILL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    RATES_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_FIELD_NUMBER: _ClassVar[int]
    COVERED_FIELD_NUMBER: _ClassVar[int]
    UNPRICED_FIELD_NUMBER: _ClassVar[int]
    CHARGED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNCACHED_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_UTILISATION_FIELD_NUMBER: _ClassVar[int]
    DECODE_UTILISATION_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    REMOTES_FIELD_NUMBER: _ClassVar[int]
    bill_nano_usd: int
    accounts: _containers.RepeatedCompositeFieldContainer[PoolAccount]
    rates: _containers.RepeatedCompositeFieldContainer[PoolRate]
    utilisation: float
    covered: _duration_pb2.Duration
    unpriced: _duration_pb2.Duration
    charged_nano_usd: int
    uncached_input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    prefill_utilisation: float
    decode_utilisation: float
    warning: str
    load: _containers.RepeatedCompositeFieldContainer[PoolLoad]
    remotes: _containers.RepeatedCompositeFieldContainer[PoolRemote]
    def __init__(self, bill_nano_usd: _Optional[int] = ..., accounts: _Optional[_Iterable[_Union[PoolAccount, _Mapping]]] = ..., rates: _Optional[_Iterable[_Union[PoolRate, _Mapping]]] = ..., utilisation: _Optional[float] = ..., covered: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., unpriced: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., charged_nano_usd: _Optional[int] = ..., uncached_input_tokens: _Optional[int] = ..., cached_input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., prefill_utilisation: _Optional[float] = ..., decode_utilisation: _Optional[float] = ..., warning: _Optional[str] = ..., load: _Optional[_Iterable[_Union[PoolLoad, _Mapping]]] = ..., remotes: _Optional[_Iterable[_Union[PoolRemote, _Mapping]]] = ...) -> None: ...

class PoolLoad(_message.Message):
    __slots__ = ("tokens_per_s", "output_tokens_per_s", "nano_usd_per_mtok", "utilisation", "slo_met")
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    NANO_USD_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_FIELD_NUMBER: _ClassVar[int]
    SLO_MET_FIELD_NUMBER: _ClassVar[int]
    tokens_per_s: float
    output_tokens_per_s: float
    nano_usd_per_mtok: int
    utilisation: float
    slo_met: float
    def __init__(self, tokens_per_s: _Optional[float] = ..., output_tokens_per_s: _Optional[float] = ..., nano_usd_per_mtok: _Optional[int] = ..., utilisation: _Optional[float] = ..., slo_met: _Optional[float] = ...) -> None: ...

class PoolRemote(_message.Message):
    __slots__ = ("remote", "price_row_id", "nano_usd", "nano_usd_per_mtok")
    REMOTE_FIELD_NUMBER: _ClassVar[int]
    PRICE_ROW_ID_FIELD_NUMBER: _ClassVar[int]
    NANO_USD_FIELD_NUMBER: _ClassVar[int]
    NANO_USD_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    remote: str
    price_row_id: str
    nano_usd: int
    nano_usd_per_mtok: int
    def __init__(self, remote: _Optional[str] = ..., price_row_id: _Optional[str] = ..., nano_usd: _Optional[int] = ..., nano_usd_per_mtok: _Optional[int] = ...) -> None: ...

class PoolAccount(_message.Message):
    __slots__ = ("name", "nano_usd")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NANO_USD_FIELD_NUMBER: _ClassVar[int]
    name: str
    nano_usd: int
    def __init__(self, name: _Optional[str] = ..., nano_usd: _Optional[int] = ...) -> None: ...

class PoolRate(_message.Message):
    __slots__ = ("token_kind", "allocated_nano_usd_per_mtok", "saturated_nano_usd_per_mtok", "marginal_nano_usd_per_mtok")
    TOKEN_KIND_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_NANO_USD_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    SATURATED_NANO_USD_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    MARGINAL_NANO_USD_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    token_kind: str
    allocated_nano_usd_per_mtok: int
    saturated_nano_usd_per_mtok: int
    marginal_nano_usd_per_mtok: int
    def __init__(self, token_kind: _Optional[str] = ..., allocated_nano_usd_per_mtok: _Optional[int] = ..., saturated_nano_usd_per_mtok: _Optional[int] = ..., marginal_nano_usd_per_mtok: _Optional[int] = ...) -> None: ...

class ListPriceRowsRequest(_message.Message):
    __slots__ = ("at", "every_row")
    AT_FIELD_NUMBER: _ClassVar[int]
    EVERY_ROW_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    every_row: bool
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., every_row: _Optional[bool] = ...) -> None: ...

class ListPriceRowsResponse(_message.Message):
    __slots__ = ("rows", "warnings")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[PriceRow]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rows: _Optional[_Iterable[_Union[PriceRow, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class PriceRow(_message.Message):
    __slots__ = ("id", "subject", "pool", "gpu", "adapter", "provider", "model", "valid_from", "valid_to", "holds", "source", "checked_at", "nano_usd_per_gpu_hour", "tiers", "window", "used_by", "warnings")
    ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    GPU_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VALID_FROM_FIELD_NUMBER: _ClassVar[int]
    VALID_TO_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CHECKED_AT_FIELD_NUMBER: _ClassVar[int]
    NANO_USD_PER_GPU_HOUR_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    USED_BY_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    id: str
    subject: PriceSubject
    pool: str
    gpu: str
    adapter: str
    provider: str
    model: str
    valid_from: _timestamp_pb2.Timestamp
    valid_to: _timestamp_pb2.Timestamp
    holds: bool
    source: str
    checked_at: str
    nano_usd_per_gpu_hour: int
    tiers: _containers.RepeatedCompositeFieldContainer[PriceTier]
    window: str
    used_by: _containers.RepeatedScalarFieldContainer[str]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., subject: _Optional[_Union[PriceSubject, str]] = ..., pool: _Optional[str] = ..., gpu: _Optional[str] = ..., adapter: _Optional[str] = ..., provider: _Optional[str] = ..., model: _Optional[str] = ..., valid_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., valid_to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., holds: _Optional[bool] = ..., source: _Optional[str] = ..., checked_at: _Optional[str] = ..., nano_usd_per_gpu_hour: _Optional[int] = ..., tiers: _Optional[_Iterable[_Union[PriceTier, _Mapping]]] = ..., window: _Optional[str] = ..., used_by: _Optional[_Iterable[str]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class PriceTier(_message.Message):
    __slots__ = ("context_over_tokens", "uncached_input_nano_usd_per_mtok", "cached_input_nano_usd_per_mtok", "cache_write_nano_usd_per_mtok", "output_nano_usd_per_mtok")
    CONTEXT_OVER_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNCACHED_INPUT_NANO_USD_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_NANO_USD_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_NANO_USD_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_NANO_USD_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    context_over_tokens: int
    uncached_input_nano_usd_per_mtok: int
    cached_input_nano_usd_per_mtok: int
    cache_write_nano_usd_per_mtok: int
    output_nano_usd_per_mtok: int
    def __init__(self, context_over_tokens: _Optional[int] = ..., uncached_input_nano_usd_per_mtok: _Optional[int] = ..., cached_input_nano_usd_per_mtok: _Optional[int] = ..., cache_write_nano_usd_per_mtok: _Optional[int] = ..., output_nano_usd_per_mtok: _Optional[int] = ...) -> None: ...

class WatchFleetRequest(_message.Message):
    __slots__ = ("interval",)
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    interval: _duration_pb2.Duration
    def __init__(self, interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchFleetResponse(_message.Message):
    __slots__ = ("at", "placements", "queued_requests", "pools", "queues", "overflowed_requests")
    AT_FIELD_NUMBER: _ClassVar[int]
    PLACEMENTS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    OVERFLOWED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    placements: _containers.RepeatedCompositeFieldContainer[PlacementState]
    queued_requests: int
    pools: _containers.RepeatedCompositeFieldContainer[PoolState]
    queues: _containers.RepeatedCompositeFieldContainer[QueueState]
    overflowed_requests: int
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., placements: _Optional[_Iterable[_Union[PlacementState, _Mapping]]] = ..., queued_requests: _Optional[int] = ..., pools: _Optional[_Iterable[_Union[PoolState, _Mapping]]] = ..., queues: _Optional[_Iterable[_Union[QueueState, _Mapping]]] = ..., overflowed_requests: _Optional[int] = ...) -> None: ...

class PoolState(_message.Message):
    __slots__ = ("pool", "model", "groups", "groups_serving", "releasable_groups", "saturation", "saturated", "rates", "turned_away_share", "predicted_wait_share", "overflows")
    POOL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_SERVING_FIELD_NUMBER: _ClassVar[int]
    RELEASABLE_GROUPS_FIELD_NUMBER: _ClassVar[int]
    SATURATION_FIELD_NUMBER: _ClassVar[int]
    SATURATED_FIELD_NUMBER: _ClassVar[int]
    RATES_FIELD_NUMBER: _ClassVar[int]
    TURNED_AWAY_SHARE_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_WAIT_SHARE_FIELD_NUMBER: _ClassVar[int]
    OVERFLOWS_FIELD_NUMBER: _ClassVar[int]
    pool: str
    model: str
    groups: int
    groups_serving: int
    releasable_groups: int
    saturation: float
    saturated: bool
    rates: _containers.RepeatedCompositeFieldContainer[PoolRate]
    turned_away_share: float
    predicted_wait_share: float
    overflows: bool
    def __init__(self, pool: _Optional[str] = ..., model: _Optional[str] = ..., groups: _Optional[int] = ..., groups_serving: _Optional[int] = ..., releasable_groups: _Optional[int] = ..., saturation: _Optional[float] = ..., saturated: _Optional[bool] = ..., rates: _Optional[_Iterable[_Union[PoolRate, _Mapping]]] = ..., turned_away_share: _Optional[float] = ..., predicted_wait_share: _Optional[float] = ..., overflows: _Optional[bool] = ...) -> None: ...

class QueueState(_message.Message):
    __slots__ = ("model", "slo_class", "requests", "oldest_wait")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SLO_CLASS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_WAIT_FIELD_NUMBER: _ClassVar[int]
    model: str
    slo_class: _generation_pb2.SloClass
    requests: int
    oldest_wait: _duration_pb2.Duration
    def __init__(self, model: _Optional[str] = ..., slo_class: _Optional[_Union[_generation_pb2.SloClass, str]] = ..., requests: _Optional[int] = ..., oldest_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PlacementState(_message.Message):
    __slots__ = ("placement", "serving", "running_requests", "waiting_requests", "kv_tokens", "kv_capacity_tokens", "report_age", "kind", "pool", "model", "group", "dp_rank", "reason", "external_sequences", "predicted_batch", "distinct_experts", "decode_step", "output_tokens_per_second", "releasable", "error_share", "kv_capacity_source", "context_tokens", "context_source", "max_sequences", "max_sequences_source", "gauges_source", "distinct_experts_source", "expert_imbalance", "busiest_expert_rank", "adapters")
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_CAPACITY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REPORT_AGE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    DP_RANK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_BATCH_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    DECODE_STEP_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    RELEASABLE_FIELD_NUMBER: _ClassVar[int]
    ERROR_SHARE_FIELD_NUMBER: _ClassVar[int]
    KV_CAPACITY_SOURCE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_SOURCE_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_SOURCE_FIELD_NUMBER: _ClassVar[int]
    GAUGES_SOURCE_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_EXPERTS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    EXPERT_IMBALANCE_FIELD_NUMBER: _ClassVar[int]
    BUSIEST_EXPERT_RANK_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    placement: str
    serving: bool
    running_requests: int
    waiting_requests: int
    kv_tokens: int
    kv_capacity_tokens: int
    report_age: _duration_pb2.Duration
    kind: _generation_pb2.PlacementKind
    pool: str
    model: str
    group: str
    dp_rank: int
    reason: str
    external_sequences: int
    predicted_batch: int
    distinct_experts: float
    decode_step: _duration_pb2.Duration
    output_tokens_per_second: float
    releasable: bool
    error_share: float
    kv_capacity_source: FigureSource
    context_tokens: int
    context_source: FigureSource
    max_sequences: int
    max_sequences_source: FigureSource
    gauges_source: FigureSource
    distinct_experts_source: FigureSource
    expert_imbalance: float
    busiest_expert_rank: int
    adapters: _containers.RepeatedCompositeFieldContainer[AdapterState]
    def __init__(self, placement: _Optional[str] = ..., serving: _Optional[bool] = ..., running_requests: _Optional[int] = ..., waiting_requests: _Optional[int] = ..., kv_tokens: _Optional[int] = ..., kv_capacity_tokens: _Optional[int] = ..., report_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., kind: _Optional[_Union[_generation_pb2.PlacementKind, str]] = ..., pool: _Optional[str] = ..., model: _Optional[str] = ..., group: _Optional[str] = ..., dp_rank: _Optional[int] = ..., reason: _Optional[str] = ..., external_sequences: _Optional[int] = ..., predicted_batch: _Optional[int] = ..., distinct_experts: _Optional[float] = ..., decode_step: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., output_tokens_per_second: _Optional[float] = ..., releasable: _Optional[bool] = ..., error_share: _Optional[float] = ..., kv_capacity_source: _Optional[_Union[FigureSource, str]] = ..., context_tokens: _Optional[int] = ..., context_source: _Optional[_Union[FigureSource, str]] = ..., max_sequences: _Optional[int] = ..., max_sequences_source: _Optional[_Union[FigureSource, str]] = ..., gauges_source: _Optional[_Union[FigureSource, str]] = ..., distinct_experts_source: _Optional[_Union[FigureSource, str]] = ..., expert_imbalance: _Optional[float] = ..., busiest_expert_rank: _Optional[int] = ..., adapters: _Optional[_Iterable[_Union[AdapterState, _Mapping]]] = ...) -> None: ...

class AdapterState(_message.Message):
    __slots__ = ("name", "active")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    name: str
    active: bool
    def __init__(self, name: _Optional[str] = ..., active: _Optional[bool] = ...) -> None: ...
