"""Names of all spans, attributes and metrics that the gateway emits.

The GenAI conventions (open-telemetry/semantic-conventions-genai) are in development and have no
Python package; the RPC conventions (semconv 1.44) are a release candidate. Money, placements and
queues have no convention: their names begin with `moegate.`.

A gateway is a server to its clients and a client of its engines, and it records both sides:
`gen_ai.server.*` is measured as a caller sees it, with queue and failover; `gen_ai.client.*` is one
attempt on one engine or remote. `rpc.server.call.duration` covers every RPC, also those that
generate no tokens. A test freezes the names, because dashboards, alerts and autoscalers depend on
them.
"""

from __future__ import annotations

from gateway.telemetry.metric import counter, gauge, histogram
from gateway.telemetry.pool_gauges import GROUPS as GROUPS
from gateway.telemetry.pool_gauges import GROUPS_SERVING as GROUPS_SERVING
from gateway.telemetry.pool_gauges import OVERFLOWING as OVERFLOWING
from gateway.telemetry.pool_gauges import POOL as POOL
from gateway.telemetry.pool_gauges import POOL_GAUGES as POOL_GAUGES
from gateway.telemetry.pool_gauges import PREDICTED_WAIT as PREDICTED_WAIT
from gateway.telemetry.pool_gauges import RELEASABLE as RELEASABLE
from gateway.telemetry.pool_gauges import REQUEST_MODEL as REQUEST_MODEL
from gateway.telemetry.pool_gauges import SATURATION as SATURATION
from gateway.telemetry.pool_gauges import TURNED_AWAY as TURNED_AWAY
from gateway.telemetry.scheduler_gauges import KEYS_UNKEPT as KEYS_UNKEPT
from gateway.telemetry.scheduler_gauges import LEADS as LEADS
from gateway.telemetry.scheduler_gauges import LEASE_AGE as LEASE_AGE
from gateway.telemetry.scheduler_gauges import TAKEOVERS as TAKEOVERS
from gateway.telemetry.scheduler_gauges import TERM as TERM

SCOPE = "moegate"

# Spans. An RPC span has the name of its method, an attempt span is "{operation} {model}".
SPAN_ADMISSION = "admission"

# Attributes of the RPC span (semconv 1.44).
RPC_SYSTEM_NAME = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_STATUS_CODE = "rpc.status_code"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
NETWORK_PEER_ADDRESS = "network.peer.address"
NETWORK_PEER_PORT = "network.peer.port"

# Attributes of the span of an HTTP request.
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"

# Attributes of an attempt (GenAI, client); those of the usage are on the RPC span, too.
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
REQUEST_TOP_K = "gen_ai.request.top_k"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_STOP = "gen_ai.request.stop_sequences"
REQUEST_FREQUENCY_PENALTY = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY = "gen_ai.request.presence_penalty"
EMBEDDINGS_DIMENSIONS = "gen_ai.embeddings.dimension.count"
REQUEST_CHOICES = "gen_ai.request.choice.count"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT = "gen_ai.usage.input_tokens"
USAGE_OUTPUT = "gen_ai.usage.output_tokens"
USAGE_CACHED = "gen_ai.usage.cache_read.input_tokens"
USAGE_REASONING = "gen_ai.usage.reasoning.output_tokens"
CONVERSATION_ID = "gen_ai.conversation.id"
OUTPUT_TYPE = "gen_ai.output.type"
# Content, only if `telemetry.record_content` is on.
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"

CHAT, TEXT_COMPLETION, EMBEDDINGS = "chat", "text_completion", "embeddings"
SCORE = "score"
"""The conventions have no name for it."""
PROVIDER_VLLM = "vllm"
PROVIDER_MOEGATE = "moegate"

# moegate's own, on the RPC span and on attempts.
REQUEST_ID = "moegate.request.id"
TENANT = "moegate.tenant"
KEY_ID = "moegate.key.id"
SLO_CLASS = "moegate.slo.class"
PRIORITY = "moegate.priority"
PARTIAL_OUTPUT = "moegate.partial_output"
PLACEMENT = "moegate.placement"
ROUTE = "moegate.route"
ATTEMPT = "moegate.attempt"
ATTEMPTS = "moegate.attempts"
OUTCOME = "moegate.outcome"
TPOT_S = "moegate.time_per_output_token"
METERED_USD = "moegate.cost.metered_usd"
CHARGED_USD = "moegate.cost.charged_usd"
COST_BASIS = "moegate.cost.basis"
PRICE_ROW = "moegate.cost.price_row"

# moegate's own, on the admission span.
QUEUE_DURATION_S = "moegate.queue.duration"
QUEUE_POSITION = "moegate.queue.position"
REFUSAL_REASON = "moegate.refusal.reason"
RETRY_AFTER_S = "moegate.retry_after"

# The decision and the overflow are events of the admission span.
EVENT_DECISION = "moegate.decision"
EVENT_OVERFLOW = "moegate.overflow"
REASON = "moegate.decision.reason"
TIER = "moegate.decision.tier"
CANDIDATES = "moegate.decision.candidates"
CHOSEN = "moegate.decision.chosen"
CHOSEN_TTFT_S = "moegate.decision.chosen.ttft"
CHOSEN_TPOT_S = "moegate.decision.chosen.tpot"
CHOSEN_USD = "moegate.decision.chosen.marginal_usd"
REJECTED = "moegate.decision.rejected"
REJECTED_TTFT_S = "moegate.decision.rejected.ttft"
REJECTED_TPOT_S = "moegate.decision.rejected.tpot"
REJECTED_USD = "moegate.decision.rejected.marginal_usd"
REJECTED_REASON = "moegate.decision.rejected.reason"
OVERFLOW_REASON = "moegate.overflow.reason"

# Fields of a JSON log line.
LOG_TRACE_ID, LOG_SPAN_ID, LOG_TRACE_FLAGS = "trace_id", "span_id", "trace_flags"


_CALL_S = tuple(0.01 * 2**i for i in range(14))
_TTFT_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0),
)
_TPOT_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(float(4**i) for i in range(14))
_QUEUE_S = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
_RATIO = (0.25, 0.5, 0.67, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


# Histograms of every RPC and request.
RPC_DURATION = histogram(
    "rpc.server.call.duration",
    "s",
    (RPC_METHOD, RPC_STATUS_CODE),
    _CALL_S,
    "Duration of RPCs, streams to their end.",
)
HTTP_DURATION = histogram(
    "http.server.request.duration",
    "s",
    (HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS),
    _CALL_S,
    "Duration of HTTP requests, streams to their end. 499: the client went away.",
)
REQUEST_DURATION = histogram(
    "gen_ai.server.request.duration",
    "s",
    (OPERATION_NAME, PROVIDER_NAME, REQUEST_MODEL, SLO_CLASS, OUTCOME, ERROR_TYPE),
    _CALL_S,
    "Duration of requests for tokens, queue and failed attempts included.",
)
TTFT = histogram(
    "gen_ai.server.time_to_first_token",
    "s",
    (OPERATION_NAME, PROVIDER_NAME, REQUEST_MODEL, SLO_CLASS, ROUTE),
    _TTFT_S,
    "Time from the arrival of a request to its first token, queue included.",
)
TPOT = histogram(
    "gen_ai.server.time_per_output_token",
    "s",
    (OPERATION_NAME, PROVIDER_NAME, REQUEST_MODEL, SLO_CLASS, ROUTE),
    _TPOT_S,
    "Mean time per output token after the first, of each request.",
)
ATTEMPT_DURATION = histogram(
    "gen_ai.client.operation.duration",
    "s",
    (OPERATION_NAME, PROVIDER_NAME, REQUEST_MODEL, POOL, OUTCOME, ERROR_TYPE),
    _CALL_S,
    "Duration of attempts on an engine or a remote.",
)
ATTEMPT_TTFC = histogram(
    "gen_ai.client.operation.time_to_first_chunk",
    "s",
    (OPERATION_NAME, PROVIDER_NAME, REQUEST_MODEL, POOL),
    _TTFT_S,
    "Time from the start of an attempt to its first token.",
)
TOKEN_TYPE = "gen_ai.token.type"
TOKEN_USAGE = histogram(
    "gen_ai.client.token.usage",
    "{token}",
    (OPERATION_NAME, TOKEN_TYPE, PROVIDER_NAME, REQUEST_MODEL, POOL),
    _TOKENS,
    "Tokens of attempts: input (cached ones included) and output.",
)
QUEUE_DURATION = histogram(
    "moegate.queue.duration",
    "s",
    (REQUEST_MODEL, SLO_CLASS, OUTCOME),
    _QUEUE_S,
    "Time in the gateway's queue, of dispatched and of refused requests.",
)
TTFT_ERROR = histogram(
    "moegate.prediction.ttft.ratio",
    "1",
    (POOL,),
    _RATIO,
    "Actual over predicted time to first token of an attempt: 1 is exact.",
)
TPOT_ERROR = histogram(
    "moegate.prediction.tpot.ratio",
    "1",
    (POOL,),
    _RATIO,
    "Actual over predicted time per output token of an attempt: 1 is exact.",
)

# Counters.
CACHE = "moegate.cache"
PROMPT_TOKENS = counter(
    "moegate.prompt.tokens",
    "{token}",
    (POOL, CACHE),
    "Prompt tokens by state of the engine's prefix cache: hit, miss, or unknown (not reported).",
)
OVERFLOWS = counter(
    "moegate.overflow",
    "{request}",
    (REQUEST_MODEL, POOL, OVERFLOW_REASON),
    "Requests sent to a remote, by reason.",
)
REFUSALS = counter(
    "moegate.refusals",
    "{request}",
    (REQUEST_MODEL, SLO_CLASS, REFUSAL_REASON),
    "Requests that were refused, by reason.",
)
SLO_MET = "moegate.slo.met"
SLO_REQUESTS = counter(
    "moegate.slo.requests",
    "{request}",
    (REQUEST_MODEL, SLO_CLASS, SLO_MET),
    "Requests by whether they kept their times to first and per output token; those that were "
    "refused or failed did not, those that their client ended are not counted.",
)
RPC_REFUSALS = counter(
    "moegate.rpc.refusals",
    "{rpc}",
    (REFUSAL_REASON,),
    "RPCs and HTTP requests refused before they were read: too many in progress, or a key at its "
    "limit.",
)
COST_KIND = "moegate.cost.kind"
COST_USD = counter(
    "moegate.cost.usd",
    "{USD}",
    (TENANT, ROUTE, COST_KIND),
    "Spend by tenant: metered (what it cost) and charged; unknown prices are in neither. Tenants "
    "beyond the first hundred count as _other.",
)
ALLOCATED_USD = counter(
    "moegate.cost.allocation.usd",
    "{USD}",
    (TENANT, REQUEST_MODEL, POOL, ROUTE),  # and `telemetry.metric_labels`
    "What requests cost, and pools beside them (__idle__, __unallocated__); unknown is in no sum.",
)
UNPRICED = counter(
    "moegate.cost.unpriced",
    "{attempt}",
    (POOL,),
    "Attempts whose cost is unknown because a price or a count is missing.",
)
DEVIATION = "moegate.deviation"
DEVIATIONS = counter(
    "moegate.upstream.deviations",
    "{answer}",
    (PLACEMENT, DEVIATION),
    "Answers that did not keep to their protocol and were usable, by kind: usage_* are counts of "
    "tokens that cannot be true and were bounded or estimated.",
)
LOG_LINES_DROPPED = counter(
    "moegate.log.dropped", "{line}", (), "Log lines dropped because their reader is too slow."
)
SCHEDULER = (LEADS, TERM, LEASE_AGE, TAKEOVERS, KEYS_UNKEPT)
HISTOGRAMS = (
    *(RPC_DURATION, HTTP_DURATION, REQUEST_DURATION, TTFT, TPOT, ATTEMPT_DURATION, ATTEMPT_TTFC),
    *(TOKEN_USAGE, QUEUE_DURATION, TTFT_ERROR, TPOT_ERROR),
)
COUNTERS = (
    *(PROMPT_TOKENS, OVERFLOWS, REFUSALS, SLO_REQUESTS, RPC_REFUSALS, COST_USD, UNPRICED),
    DEVIATIONS,
)

# Gauges, read for each page.
QUEUE_DEPTH = gauge(
    "moegate.queue.depth", "{request}", (REQUEST_MODEL, SLO_CLASS), "Requests in the queue."
)
QUEUE_OLDEST = gauge(
    "moegate.queue.oldest", "s", (REQUEST_MODEL, SLO_CLASS), "Wait of the oldest waiting request."
)
QUEUE_DRAIN = gauge("moegate.queue.drain", "s", (REQUEST_MODEL,), "Predicted time to empty.")
IN_FLIGHT = gauge("moegate.requests.in_flight", "{request}", (), "Requests waiting or running.")
LOOP_BUSY = gauge("moegate.loop.busy", "1", (), "CPU of the process, share of one core.")
SERVING = gauge("moegate.placement.serving", "1", (PLACEMENT,), "1 in service, 0 not.")
RUNNING = gauge(
    "moegate.placement.running", "{sequence}", (PLACEMENT,), "This gateway's sequences."
)
EXTERNAL = gauge(
    "moegate.placement.external", "{sequence}", (PLACEMENT,), "Sequences that other clients sent."
)
ENGINE_WAITING = gauge(
    "moegate.placement.waiting", "{request}", (PLACEMENT,), "Requests waiting in the engine."
)
GAUGES_BELIEVED = gauge(
    "moegate.placement.gauges.believed",
    "1",
    (PLACEMENT,),
    "1: what an engine says to run and to wait is believed; 0: it stands still while only a probe "
    "moves the counters, or is not told.",
)
KV_TOKENS = gauge("moegate.placement.kv.tokens", "{token}", (PLACEMENT,), "Predicted KV tokens.")
KV_CAPACITY = gauge(
    "moegate.placement.kv.capacity", "{token}", (PLACEMENT,), "Capacity of the KV cache."
)
BATCH = gauge("moegate.placement.batch", "{sequence}", (PLACEMENT,), "Sequences of the next step.")
DISTINCT_EXPERTS = gauge(
    "moegate.placement.distinct_experts", "{expert}", (PLACEMENT,), "Of the next step, D(B)."
)
EXPERTS_OBSERVED = gauge(
    "moegate.placement.distinct_experts.observed", "1", (PLACEMENT,), "1: D(B) is learnt."
)
EXPERT_IMBALANCE = gauge(
    "moegate.placement.expert_imbalance", "1", (PLACEMENT,), "Busiest expert rank's load / mean."
)
DECODE_STEP = gauge(
    "moegate.placement.decode_step", "s", (PLACEMENT,), "Predicted time of the next step, T(B)."
)
REPORT_AGE = gauge("moegate.placement.report.age", "s", (PLACEMENT,), "Age of the newest report.")
ERROR_SHARE = gauge(
    "moegate.placement.errors", "1", (PLACEMENT,), "Failed share of recent attempts."
)
OUTPUT_RATE = gauge(
    "moegate.placement.output_tokens_per_second",
    "{token}/s",
    (PLACEMENT,),
    "Output tokens per second, by an engine's counter or by the ended attempts of a remote.",
)
BREAKER = gauge(
    "moegate.placement.breaker",
    "1",
    (PLACEMENT, "moegate.breaker.phase"),
    "1 for the current phase of the placement's breaker: closed, paused, open or half_open.",
)
USD_PER_MTOK = gauge(
    "moegate.pool.usd_per_mtok",
    "{USD}",
    (POOL, "moegate.rate", "moegate.token.kind"),
    "Cost of a million tokens: allocated (all paid time of the last hour), floor (the best rate "
    "measured within the SLO), marginal (one more request now).",
)
BUDGET_CAP = gauge(
    "moegate.budget.cap_usd",
    "{USD}",
    (TENANT, KEY_ID, "moegate.budget.period"),
    "Cap of a budget, without budgets of single sessions.",
)
BUDGET_LEFT = gauge(
    "moegate.budget.left",
    "1",
    (TENANT, KEY_ID, "moegate.budget.period"),
    "Share of the budget that is neither spent nor granted to running requests; below 0: overrun.",
)
LEDGER_BACKLOG = gauge("moegate.ledger.backlog", "{row}", (), "Rows that wait to be written.")
LEDGER_LIMIT = gauge("moegate.ledger.backlog.limit", "{row}", (), "Most rows that may wait.")
LEDGER_LOST = gauge("moegate.ledger.lost", "{row}", (), "Rows lost for lack of room.")
BATCH_JOBS = gauge("moegate.batch.jobs", "{job}", (TENANT,), "Offline jobs that run here.")
BATCH_ITEMS = gauge(
    "moegate.batch.items", "{item}", (TENANT, "moegate.batch.state"), "Items: left, in_flight."
)
FLEET_GAUGES = (
    *(QUEUE_DEPTH, QUEUE_OLDEST, QUEUE_DRAIN, IN_FLIGHT, LOOP_BUSY),
    *POOL_GAUGES,
    *(SERVING, RUNNING, EXTERNAL, ENGINE_WAITING, GAUGES_BELIEVED, KV_TOKENS, KV_CAPACITY),
    *(BATCH, DISTINCT_EXPERTS, EXPERTS_OBSERVED, EXPERT_IMBALANCE, DECODE_STEP, REPORT_AGE),
    *(ERROR_SHARE, OUTPUT_RATE, BREAKER),
    *(BATCH_JOBS, BATCH_ITEMS),
    *(USD_PER_MTOK, BUDGET_CAP, BUDGET_LEFT, LEDGER_BACKLOG, LEDGER_LIMIT, LEDGER_LOST),
)
