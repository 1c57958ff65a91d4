"""Checks of pools whose replicas are found in DNS or in Kubernetes."""

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
                fix = "list replicas, or let discover find them"
                yield problem(f"{path}.replicas", (), message, fix)
            continue
        if pool.replicas:
            message = "discover is given too: a replica in both would be counted twice"
            fix = "keep one of them; two pools may serve one model"
            yield problem(f"{path}.replicas", pool.replicas, message, fix)
        yield from _settings(f"{path}.discover", pool.discover)
        field, name = _name(pool.discover)
        other = first.setdefault((name.lower(), pool.discover.port), f"{path}.discover")
        if name and other != f"{path}.discover":
            message = f"the same servers as {other}"
            yield problem(f"{path}.discover.{field}", name, message, "name others")


def _name(discover: DiscoveryConfig) -> tuple[str, str]:
    """The field that names the servers, and the name; both empty: there is none."""
    if discover.dns is not None:
        return "dns", discover.dns.rstrip(".")
    if discover.endpoint_slices is not None:
        return "endpoint_slices", str(discover.endpoint_slices)
    return "", ""


def _settings(path: str, discover: DiscoveryConfig) -> Iterator[Problem]:
    if (discover.dns is None) is (discover.endpoint_slices is None):
        message = "either dns or endpoint_slices finds the servers"
        fix = "give one of them"
        yield problem(path, discover.source if discover.dns else (), message, fix)
    if discover.nameserver is not None and discover.dns is None:
        message = "no name in DNS is looked up"
        fix = "remove it, or give dns"
        yield problem(f"{path}.nameserver", discover.nameserver, message, fix)
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
