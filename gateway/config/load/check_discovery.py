"""Checks of pools whose replicas are found in DNS."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from gateway.config.discovery import DiscoveryConfig
from gateway.config.gateway import PoolConfig
from gateway.config.problems import Problem, problem


def discovery_problems(pools: tuple[PoolConfig, ...]) -> Iterator[Problem]:
    """Every problem of the pools' `replicas` and `discover` with each other."""
    first: dict[tuple[str, int], str] = {}
    for i, pool in enumerate(pools):
        path = f"pools[{i}]"
        if pool.discover is None:
            if not pool.replicas:
                message = "the pool has neither replicas nor discover: no server"
                fix = "list replicas, or let discover find them in DNS"
                yield problem(f"{path}.replicas", (), message, fix)
            continue
        if pool.replicas:
            message = "discover is given too: a replica in both would be counted twice"
            fix = "keep one of them; two pools may serve one model"
            yield problem(f"{path}.replicas", pool.replicas, message, fix)
        yield from _settings(f"{path}.discover", pool.discover)
        name = pool.discover.dns.rstrip(".").lower()
        other = first.setdefault((name, pool.discover.port), f"{path}.discover")
        if other != f"{path}.discover":
            message = f"the same servers as {other}"
            yield problem(f"{path}.discover.dns", pool.discover.dns, message, "name others")


def _settings(path: str, discover: DiscoveryConfig) -> Iterator[Problem]:
    if discover.min_refresh_s > discover.max_refresh_s:
        message = f"longer than max_refresh_s, {discover.max_refresh_s:g} s"
        fix = "lower min_refresh_s, or raise max_refresh_s"
        yield problem(f"{path}.min_refresh_s", discover.min_refresh_s, message, fix)
    if discover.nameserver is not None:
        host, _, port = discover.nameserver.rpartition(":")
        try:
            ip_address(host.strip("[]"))
            right = 1 <= int(port) <= 65_535
        except ValueError:
            right = False
        if not right:
            fix = "write an IP address and a port, such as 10.96.0.10:53"
            yield problem(
                f"{path}.nameserver", discover.nameserver, "no address of a DNS server", fix
            )
