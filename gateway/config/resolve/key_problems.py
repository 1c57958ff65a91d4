"""What a key refers to in the rest of the configuration: models, and classes of remotes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from gateway.config.gateway import GatewayConfig, KeyConfig, PoolConfig, RemoteConfig
from gateway.config.problems import Problem, field_path, nearest, problem


def key_problems(path: str, key: KeyConfig, config: GatewayConfig) -> Iterator[Problem]:
    """Yields names of models and classes that there are not, and a limit that nothing reaches.
    `path`: of the key; empty: none."""
    known: dict[str, set[str]] = defaultdict(set)
    discovers = False
    upstreams: list[PoolConfig | RemoteConfig] = [*config.pools, *config.remotes]
    for upstream in upstreams:
        known["models"].add(upstream.model)
        if isinstance(upstream, RemoteConfig):
            known["remote_classes"].add(upstream.remote_class)
        elif upstream.adapters is not None:
            known["models"].update(adapter.model for adapter in upstream.adapters.models)
            discovers |= upstream.adapters.discover
    wanted = {"models": key.models, "remote_classes": key.remote_classes or ()}
    sources = {"models": "no pool or remote serves it", "remote_classes": "no remote has it"}
    for field, names in wanted.items():
        for i, name in enumerate(names):
            if name not in known[field] and not (field == "models" and discovers):
                guess = nearest(name, known[field])
                listed = ", ".join(sorted(known[field])) or "none: remove it"
                fix = f"did you mean {guess}?" if guess else f"there are: {listed}"
                yield problem(field_path(path, f"{field}[{i}]"), name, sources[field], fix)
    size, most = key.limits.message_bytes, config.limits.message_bytes
    if size is not None and size > most:
        fix = f"at most {most}, or raise limits.message_bytes"
        yield problem(
            field_path(path, "limits.message_bytes"), size, "larger than any message may be", fix
        )
