"""Which rights a tenant's admin may give to a key: those of its own key, and no more."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gateway.auth.authenticator import Caller
from gateway.config.gateway import KeyConfig, KeyRole
from gateway.config.limits import KeyLimitsConfig

_RANKS = {role: rank for rank, role in enumerate(KeyRole)}
_LIMITS = KeyLimitsConfig.__struct_fields__


def rights_of(caller: Caller) -> KeyConfig:
    """Returns the rights of a caller without a key, who has signed in."""
    return KeyConfig(
        id=caller.key_id,
        role=caller.role,
        models=tuple(sorted(caller.models or ())),
        slo_classes=caller.slo_classes,
        remote_classes=(
            None if caller.remote_classes is None else tuple(sorted(caller.remote_classes))
        ),
        min_ttft_s=caller.min_ttft_s,
        min_tpot_s=caller.min_tpot_s,
        max_priority=caller.max_priority,
        limits=KeyLimitsConfig(
            requests_per_minute=caller.limits.requests_per_minute,
            tokens_per_minute=caller.limits.tokens_per_minute,
            concurrent_requests=caller.limits.concurrent_requests,
            max_output_tokens=caller.max_output_tokens,
        ),
    )


def inherited(key: KeyConfig, own: KeyConfig) -> KeyConfig:
    """Returns the key with those of `own` in place of the bounds that it leaves open. Rates are
    of each key: two keys have twice the rate of one."""
    limits = {
        name: getattr(own.limits, name)
        for name in _LIMITS
        if getattr(key.limits, name) is None and getattr(own.limits, name) is not None
    }
    return msgspec.structs.replace(
        key,
        models=key.models or own.models,
        slo_classes=key.slo_classes or own.slo_classes,
        remote_classes=own.remote_classes if key.remote_classes is None else key.remote_classes,
        min_ttft_s=own.min_ttft_s if key.min_ttft_s is None else key.min_ttft_s,
        min_tpot_s=own.min_tpot_s if key.min_tpot_s is None else key.min_tpot_s,
        limits=msgspec.structs.replace(key.limits, **limits),
    )


def beyond(key: KeyConfig, own: KeyConfig) -> Iterator[tuple[str, str]]:
    """Yields field and fault for each right of a key that `own` has not."""
    if _RANKS[key.role] > _RANKS[own.role]:
        yield "role", f"{key.role.value}: your key has the role {own.role.value}"
    if own.models and (not key.models or not set(key.models) <= set(own.models)):
        yield "models", f"your key may use {', '.join(own.models)}"
    if own.slo_classes and not (key.slo_classes and set(key.slo_classes) <= set(own.slo_classes)):
        yield "slo_classes", f"your key may use {', '.join(own.slo_classes)}"
    if own.remote_classes is not None and (
        key.remote_classes is None or not set(key.remote_classes) <= set(own.remote_classes)
    ):
        names = ", ".join(own.remote_classes) or "no remote"
        yield "remote_classes", f"your key allows {names}"
    for name in ("min_ttft_s", "min_tpot_s"):
        mine, wanted = getattr(own, name), getattr(key, name)
        if mine is None and wanted is not None:
            yield name, f"{wanted:g}: your key has only the figures of the classes"
        elif mine is not None and (wanted is None or wanted < mine):
            yield name, f"your key may ask for {mine:g} or more"
    if key.max_priority > own.max_priority:
        yield "max_priority", f"{key.max_priority}: your key may ask for {own.max_priority}"
    for name in _LIMITS:
        mine, wanted = getattr(own.limits, name), getattr(key.limits, name)
        if mine is not None and (wanted is None or wanted > mine):
            yield f"limits.{name}", f"your key has {mine}"
