"""The address of a member is the configured one, or that from which it reaches the database."""

from __future__ import annotations

import pytest

from gateway.cluster.address import accounts_address, link_address, process_name
from gateway.config.server import ClusterConfig, ClusterTlsConfig

TLS = ClusterTlsConfig(cert="a", key="b", ca="c")


@pytest.mark.parametrize(
    ("dsn", "advertise", "address"),
    [
        ("postgresql://u:p@127.0.0.1:5432/d", None, "127.0.0.1:50061"),
        ("postgresql://u:p@127.0.0.1/d", None, "127.0.0.1:50061"),
        ("postgresql://u:p@[::1]:5432/d", None, "[::1]:50061"),
        ("postgresql:///d", "gw-1.example.com", "gw-1.example.com:50061"),
        ("postgresql://h/d", "[2001:db8::1]", "[2001:db8::1]:50061"),
    ],
)
async def test_the_address(dsn: str, advertise: str | None, address: str) -> None:
    cluster = ClusterConfig(tls=TLS, listen="[::]:50061", advertise=advertise)
    assert await link_address(cluster, dsn) == address


async def test_what_to_configure_is_told() -> None:
    cluster = ClusterConfig(tls=TLS)
    with pytest.raises(OSError, match=r"cluster\.advertise: .*: give the host"):
        await link_address(cluster, "postgresql://no.such.host.invalid/d")


def test_the_services_are_at_the_next_port() -> None:
    assert accounts_address("[::1]:50061") == "[::1]:50062"


def test_names_of_processes_differ() -> None:
    assert process_name() != process_name()
