"""LoRA adapters of self-hosted servers: their names, and which of them a server has loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.config.gateway import PoolConfig
from gateway.upstream.vllm.client import ListedModel
from scheduler.adapters.adapter_report import AdapterReport

RELIST_S = 10.0
"""Time between two readings of the models that a server lists."""
MOST_NAME_CHARS = 256
"""Longest name of an adapter that is believed."""
_INFO = re.compile(rb"^vllm:lora_requests_info\{(.*)\} (\S+)\r?$", re.MULTILINE)
_LABEL = re.compile(rb'(\w+)="((?:[^"\\]|\\.)*)"')
_RANK = re.compile(rb"^vllm:num_requests_running\{", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRules:
    """Which adapters of a pool's servers are offered, see `AdaptersConfig`. `names`: clients' names
    by those of the server."""

    names: Mapping[str, str] = field(default_factory=dict)
    discover: bool = False
    most: int = 256


def adapter_names(pool: PoolConfig) -> dict[str, str]:
    """Names of the pool's configured adapters at its servers, by the names of clients."""
    models = () if pool.adapters is None else pool.adapters.models
    return {adapter.model: adapter.upstream_model or adapter.model for adapter in models}


def adapter_rules(pool: PoolConfig) -> AdapterRules | None:
    """The rules of a pool; None: it has no adapters."""
    if pool.adapters is None:
        return None
    return AdapterRules(
        names={served: name for name, served in adapter_names(pool).items()},
        discover=pool.adapters.discover,
        most=pool.adapters.most,
    )


def loaded_adapters(listed: Mapping[str, ListedModel], rules: AdapterRules) -> frozenset[str]:
    """Clients' names of the adapters that a server lists. One that is not configured is an adapter
    if it has a parent, and loses its name to a configured one."""
    found = {rules.names[name] for name in listed if name in rules.names}
    if rules.discover:
        taken = frozenset(rules.names.values())
        others = sorted(
            name
            for name, model in listed.items()
            if model.parent and name not in rules.names and name not in taken
            if 0 < len(name) <= MOST_NAME_CHARS and name.isprintable()
        )
        found.update(others[: max(0, rules.most - len(found))])
    return frozenset(found)


def adapter_report(
    placement: str, loaded: frozenset[str], metrics: bytes, rules: AdapterRules, *, pinned: bool
) -> AdapterReport:
    """What a server tells. `loaded`: clients' names; `metrics`: its page of metrics.

    vLLM writes a sample of `vllm:lora_requests_info` for each set of adapters that it ever ran, the
    value being the time when it last did; the newest one counts. The metric mixes all data-parallel
    ranks, so that with several ranks what is active is unknown. `pinned`: the placement is one of
    several ranks; else the bound of a rank does not hold for the placement that has several.
    """
    samples = [(_seconds(value), labels) for labels, value in _INFO.findall(metrics)]
    if not samples:
        return AdapterReport(placement=placement, loaded=loaded)
    labels = dict(_LABEL.findall(max(samples)[1]))
    single = len(_RANK.findall(metrics)) == 1
    most = labels.get(b"max_lora", b"")
    active = _names(labels, b"running_lora_adapters") | _names(labels, b"waiting_lora_adapters")
    return AdapterReport(
        placement=placement,
        loaded=loaded,
        active=frozenset(rules.names.get(name, name) for name in active) if single else None,
        most_active=int(most) if (single or pinned) and _is_count(most) else None,
    )


def _names(labels: Mapping[bytes, bytes], label: bytes) -> frozenset[str]:
    text = labels.get(label, b"").decode(errors="replace")
    unescaped = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text)
    return frozenset(filter(None, unescaped.split(",")))


def _is_count(text: bytes) -> bool:
    return text.isdigit() and 0 < len(text) < 7 and int(text) > 0


def _seconds(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return float("-inf")
