import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BudgetPeriod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUDGET_PERIOD_UNSPECIFIED: _ClassVar[BudgetPeriod]
    BUDGET_PERIOD_HOUR: _ClassVar[BudgetPeriod]
    BUDGET_PERIOD_DAY: _ClassVar[BudgetPeriod]
    BUDGET_PERIOD_MONTH: _ClassVar[BudgetPeriod]
BUDGET_PERIOD_UNSPECIFIED: BudgetPeriod
BUDGET_PERIOD_HOUR: BudgetPeriod
BUDGET_PERIOD_DAY: BudgetPeriod
BUDGET_PERIOD_MONTH: BudgetPeriod

class DrainRequest(_message.Message):
    __slots__ = ("placement",)
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    placement: str
    def __init__(self, placement: _Optional[str] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("running_requests",)
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    running_requests: int
    def __init__(self, running_requests: _Optional[int] = ...) -> None: ...

class UndrainRequest(_message.Message):
    __slots__ = ("placement",)
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    placement: str
    def __init__(self, placement: _Optional[str] = ...) -> None: ...

class UndrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadResponse(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, changes: _Optional[_Iterable[str]] = ...) -> None: ...

class BudgetScope(_message.Message):
    __slots__ = ("tenant", "key_id", "each_session", "period")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    EACH_SESSION_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    key_id: str
    each_session: bool
    period: BudgetPeriod
    def __init__(self, tenant: _Optional[str] = ..., key_id: _Optional[str] = ..., each_session: _Optional[bool] = ..., period: _Optional[_Union[BudgetPeriod, str]] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("scope", "cap_nano_usd", "hard", "set_at_run_time", "accounts")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    CAP_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    HARD_FIELD_NUMBER: _ClassVar[int]
    SET_AT_RUN_TIME_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    scope: BudgetScope
    cap_nano_usd: int
    hard: bool
    set_at_run_time: bool
    accounts: _containers.RepeatedCompositeFieldContainer[BudgetAccount]
    def __init__(self, scope: _Optional[_Union[BudgetScope, _Mapping]] = ..., cap_nano_usd: _Optional[int] = ..., hard: _Optional[bool] = ..., set_at_run_time: _Optional[bool] = ..., accounts: _Optional[_Iterable[_Union[BudgetAccount, _Mapping]]] = ...) -> None: ...

class BudgetAccount(_message.Message):
    __slots__ = ("session_id", "starts_at", "ends_at", "settled_nano_usd", "leased_nano_usd")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    STARTS_AT_FIELD_NUMBER: _ClassVar[int]
    ENDS_AT_FIELD_NUMBER: _ClassVar[int]
    SETTLED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    LEASED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    starts_at: _timestamp_pb2.Timestamp
    ends_at: _timestamp_pb2.Timestamp
    settled_nano_usd: int
    leased_nano_usd: int
    def __init__(self, session_id: _Optional[str] = ..., starts_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ends_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., settled_nano_usd: _Optional[int] = ..., leased_nano_usd: _Optional[int] = ...) -> None: ...

class SetBudgetRequest(_message.Message):
    __slots__ = ("budget", "force")
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    budget: Budget
    force: bool
    def __init__(self, budget: _Optional[_Union[Budget, _Mapping]] = ..., force: _Optional[bool] = ...) -> None: ...

class SetBudgetResponse(_message.Message):
    __slots__ = ("budget", "warnings")
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    budget: Budget
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, budget: _Optional[_Union[Budget, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteBudgetRequest(_message.Message):
    __slots__ = ("scope",)
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    scope: BudgetScope
    def __init__(self, scope: _Optional[_Union[BudgetScope, _Mapping]] = ...) -> None: ...

class DeleteBudgetResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListBudgetsRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class ListBudgetsResponse(_message.Message):
    __slots__ = ("budgets",)
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    budgets: _containers.RepeatedCompositeFieldContainer[Budget]
    def __init__(self, budgets: _Optional[_Iterable[_Union[Budget, _Mapping]]] = ...) -> None: ...

class CorrectChargeRequest(_message.Message):
    __slots__ = ("epoch", "seq", "delta_nano_usd", "note")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    DELTA_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    seq: int
    delta_nano_usd: int
    note: str
    def __init__(self, epoch: _Optional[str] = ..., seq: _Optional[int] = ..., delta_nano_usd: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class CorrectChargeResponse(_message.Message):
    __slots__ = ("charged_nano_usd",)
    CHARGED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    charged_nano_usd: int
    def __init__(self, charged_nano_usd: _Optional[int] = ...) -> None: ...

class GetLedgerStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLedgerStatusResponse(_message.Message):
    __slots__ = ("error", "failing", "backlog_rows", "backlog_limit_rows", "written_rows", "lost_rows", "lost_nano_usd", "leases")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FAILING_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_ROWS_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_LIMIT_ROWS_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_ROWS_FIELD_NUMBER: _ClassVar[int]
    LOST_ROWS_FIELD_NUMBER: _ClassVar[int]
    LOST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    error: str
    failing: _duration_pb2.Duration
    backlog_rows: int
    backlog_limit_rows: int
    written_rows: int
    lost_rows: int
    lost_nano_usd: int
    leases: int
    def __init__(self, error: _Optional[str] = ..., failing: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., backlog_rows: _Optional[int] = ..., backlog_limit_rows: _Optional[int] = ..., written_rows: _Optional[int] = ..., lost_rows: _Optional[int] = ..., lost_nano_usd: _Optional[int] = ..., leases: _Optional[int] = ...) -> None: ...
