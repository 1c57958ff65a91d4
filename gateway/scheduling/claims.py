"""Claims of a request before scheduling: idempotency key and key limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from gateway.config.gateway import GatewayConfig
from scheduler.contract import RefusalReason, Refuse, Request
from scheduler.limits.idempotency import IdempotencyKeys, Key, KeyUse
from scheduler.limits.rate_limit import NO_RATE_LIMITS, RateLevel, RateLimiter, RateLimits, Refusal
from scheduler.port import Submission


class Claims:
    """Claims of all requests. Each `claim` that returns None is followed by one `release`."""

    def __init__(self) -> None:
        self._limiter = RateLimiter()
        self._idempotency = IdempotencyKeys()
        self.on_key_use: Callable[[Key, KeyUse | None], None] = lambda key, use: None
        """Called with each change of an idempotency key's use; None: the key is free."""

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

    def claim(self, submission: Submission, now: float, *, again: bool = False) -> Refuse | None:
        """Claims the idempotency key, and a slot and the tokens of the key's limits. On refusal it
        claims nothing and returns the refusal. `now`: monotonic seconds. `again`: an earlier
        scheduler may have admitted this request, and its front was not told."""
        request = submission.request
        key = _key(submission)
        if key is not None:
            refusal = self._key_refusal(key, request, now, again=again)
            if refusal is not None:
                return refusal
        limited = self._limiter.admit(
            request.key_id, submission.key_limits, request.prompt_tokens, now, requests=0
        )
        if limited is None:
            if key is not None:
                self.on_key_use(
                    key, self._idempotency.claim(key, request.tenant, client_id(request))
                )
            return None
        return Refuse(
            request_id=request.request_id,
            reason=RefusalReason.KEY_LIMIT,
            message=f"key {request.key_id} is at its limit {limited.limit}",
            retry_after_s=limited.retry_after_s,
        )

    def resume(self, submission: Submission, *, has_output: bool) -> bool:
        """Claims again what a request holds that an earlier scheduler has admitted, whatever its
        limits say now. `has_output`: the client may have output. Returns False, and claims nothing,
        if another request has its idempotency key."""
        request, key = submission.request, _key(submission)
        if key is not None:
            use = self._idempotency.use(key)
            # Another front may have told of this request before its own was back.
            is_own = use is not None and use.until_s is not None
            if use is not None and not (is_own and use.request_id == client_id(request)):
                return False
            use = self._idempotency.claim(
                key, request.tenant, client_id(request), has_output=has_output
            )
            self.on_key_use(key, use)
        self._limiter.resume(request.key_id, submission.key_limits)
        return True

    def resume_slots(self, key_id: str, count: int) -> None:
        """Takes slots that an earlier scheduler has given."""
        for _ in range(count):
            self._limiter.resume(key_id, NO_RATE_LIMITS)

    def changed_levels(self, now: float, *, every: bool = False) -> list[RateLevel]:
        """See `RateLimiter`."""
        return self._limiter.changed_levels(now, every=every)

    def restore_levels(self, levels: Iterable[RateLevel], now: float) -> None:
        """Goes on with the rates of an earlier scheduler."""
        for level in levels:
            self._limiter.restore(level, now)

    def remember(self, key: Key, use: KeyUse, until_s: float) -> None:
        """Remembers the idempotency key of a request of an earlier scheduler."""
        use = replace(use, until_s=until_s)
        if self._idempotency.remember(key, use, until_s):
            self.on_key_use(key, use)

    def settle_unfinished(self, now: float, *, are_over: bool) -> None:
        """Settles the remembered keys of requests of an earlier scheduler that no front has taken
        over, and of which no output is known. `are_over`: they have ended with their fronts, so
        that their keys are free; else their clients may have output by now."""
        for key in self.idempotency_keys():
            use = self._idempotency.use(key)
            if use is None or use.until_s is None or use.has_ended or use.has_output:
                continue
            self._idempotency.claim(key, use.tenant, use.request_id)
            self._idempotency.end(key, now, remember=False)
            if are_over:
                self.on_key_use(key, None)
            else:
                self.remember(key, replace(use, has_output=True), use.until_s)

    def record_output(self, submission: Submission) -> None:
        """The client of a claimed request may have output from now on."""
        key = _key(submission)
        if key is not None and (use := self._idempotency.record_output(key)) is not None:
            self.on_key_use(key, use)

    def idempotency_keys(self) -> list[Key]:
        """Returns all idempotency keys that are in use or remembered."""
        return self._idempotency.keys()

    def key_use(self, key: Key) -> KeyUse | None:
        """Returns the use of an idempotency key; None: there is none."""
        return self._idempotency.use(key)

    def release(
        self, submission: Submission, used_tokens: int, now: float, *, keep_key: bool
    ) -> None:
        """Releases the claims of an ended request. `keep_key`: remember its idempotency key for a
        while. `used_tokens`: prompt and output tokens."""
        request = submission.request
        self._limiter.settle(request.key_id, request.prompt_tokens, used_tokens, now)
        if (key := _key(submission)) is not None:
            self.on_key_use(key, self._idempotency.end(key, now, remember=keep_key))

    def _key_refusal(self, key: Key, request: Request, now: float, *, again: bool) -> Refuse | None:
        first_id = self._idempotency.first_request(key, now)
        if again and first_id == client_id(request):
            use = self._idempotency.use(key)
            if use is not None and use.until_s is not None and not use.has_ended:
                return None
        if first_id is not None:
            return Refuse(
                request_id=request.request_id,
                reason=RefusalReason.IDEMPOTENCY_KEY_USED,
                message=f"idempotency_key: request {first_id!r} has it",
                retry_after_s=None,
                other_request_id=first_id,
            )
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
