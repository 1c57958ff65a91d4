"""Claims of a request before scheduling: idempotency key and key limits."""

from __future__ import annotations

from gateway.config.gateway import GatewayConfig
from scheduler.contract import RefusalReason, Refuse, Request
from scheduler.limits.idempotency import IdempotencyKeys
from scheduler.limits.rate_limit import NO_RATE_LIMITS, RateLimiter, RateLimits, Refusal
from scheduler.port import Submission


class Claims:
    """Claims of all requests. Each `claim` that returns None is followed by one `release`."""

    def __init__(self) -> None:
        self._limiter = RateLimiter()
        self._idempotency = IdempotencyKeys()

    def configure(self, config: GatewayConfig) -> None:
        """Applies the bound of remembered idempotency keys, and drops the limits' state of keys
        that are not configured any more."""
        self._idempotency.resize(config.limits.idempotency_keys)
        self._limiter.retain({key.id for tenant in config.tenants for key in tenant.keys})

    def take_request(self, key_id: str, limits: RateLimits, now: float) -> Refusal | None:
        """Takes one of the key's requests per minute. `now`: monotonic seconds."""
        return self._limiter.take_request(key_id, limits, now)

    def take_slot(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """Takes a slot of the key, until `free_slot`."""
        return self._limiter.take_slot(key_id, limits)

    def free_slot(self, key_id: str, now: float) -> None:
        """Gives a slot of the key back."""
        self._limiter.settle(key_id, 0, 0, now)

    def claim(self, submission: Submission, now: float) -> Refuse | None:
        """Claims the idempotency key, and a slot and the tokens of the key's limits. On refusal it
        claims nothing and returns the refusal. `now`: monotonic seconds."""
        request = submission.request
        key = _key(submission)
        if key is not None:
            refusal = self._claim_key(key, request, now)
            if refusal is not None:
                return refusal
        limited = self._limiter.admit(
            request.key_id, submission.key_limits, request.prompt_tokens, now, requests=0
        )
        if limited is None:
            return None
        if key is not None:
            self._idempotency.end(key, request.tenant, now, remember=False)
        return Refuse(
            request_id=request.request_id,
            reason=RefusalReason.KEY_LIMIT,
            message=f"key {request.key_id} is at its limit {limited.limit}",
            retry_after_s=limited.retry_after_s,
        )

    def resume(self, submission: Submission) -> bool:
        """Claims again what a request holds that an earlier scheduler has admitted, whatever its
        limits say now. Returns False, and claims nothing, if another request has its idempotency
        key."""
        request, key = submission.request, _key(submission)
        if key is not None:
            if self._idempotency.first_request(key, float("-inf")) is not None:
                return False
            self._idempotency.claim(key, client_id(request))
        self._limiter.resume(request.key_id, submission.key_limits)
        return True

    def resume_slots(self, key_id: str, count: int) -> None:
        """Takes slots that an earlier scheduler has given."""
        for _ in range(count):
            self._limiter.resume(key_id, NO_RATE_LIMITS)

    def remember(self, key: tuple[str, str], tenant: str, first_id: str, until_s: float) -> None:
        """Remembers the idempotency key of a request that ended at an earlier scheduler."""
        self._idempotency.remember(key, tenant, first_id, until_s)

    def release(
        self, submission: Submission, used_tokens: int, now: float, *, keep_key: bool
    ) -> None:
        """Releases the claims of an ended request. `keep_key`: remember its idempotency key for a
        while. `used_tokens`: prompt and output tokens."""
        request = submission.request
        self._limiter.settle(request.key_id, request.prompt_tokens, used_tokens, now)
        if (key := _key(submission)) is not None:
            self._idempotency.end(key, request.tenant, now, remember=keep_key)

    def _claim_key(self, key: tuple[str, str], request: Request, now: float) -> Refuse | None:
        first_id = self._idempotency.first_request(key, now)
        if first_id is not None:
            return Refuse(
                request_id=request.request_id,
                reason=RefusalReason.IDEMPOTENCY_KEY_USED,
                message=f"idempotency_key: request {first_id!r} has it",
                retry_after_s=None,
                other_request_id=first_id,
            )
        self._idempotency.claim(key, client_id(request))
        return None


def client_id(request: Request) -> str:
    """Returns the client's request id. The scheduler's id has the key's id as a prefix."""
    return request.request_id.removeprefix(f"{request.key_id}/")


def request_in_flight(request: Request) -> Refuse:
    """Builds the refusal for a request id that is in use."""
    shown = client_id(request)
    return Refuse(
        request_id=request.request_id,
        reason=RefusalReason.REQUEST_IN_FLIGHT,
        message=f"request_id {shown!r} is in flight: choose another, or none",
        retry_after_s=None,
        other_request_id=shown,
    )


def no_hedge(request: Request, message: str) -> Refuse:
    """Builds the refusal for a hedge that cannot start now."""
    return Refuse(
        request_id=request.request_id,
        reason=RefusalReason.UNAVAILABLE,
        message=message,
        retry_after_s=None,
    )


def _key(submission: Submission) -> tuple[str, str] | None:
    if not submission.idempotency_key:
        return None
    return submission.request.key_id, submission.idempotency_key
