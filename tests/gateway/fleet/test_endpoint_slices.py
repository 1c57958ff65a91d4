"""Servers told by Kubernetes' API: listed once, then known as soon as they change."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gateway.config.discovery import DiscoveryConfig, EndpointSlicesConfig
from gateway.fleet.endpoint_slices import EndpointSliceLookup
from gateway.fleet.found import LookupFailed
from tests.kubernetes_api import KubernetesApi, endpoint, kubernetes_api


@pytest.fixture
async def api() -> AsyncIterator[KubernetesApi]:
    async with kubernetes_api("models", "vllm") as served:
        yield served


def following(
    api: KubernetesApi,
    folder: Path,
    *,
    max_refresh_s: float = 60.0,
    other: Mapping[str, str] | None = None,
) -> EndpointSliceLookup:
    (folder / "token").write_text("token\n")
    service = EndpointSlicesConfig(
        service="vllm",
        namespace="models",
        api_server=api.url,
        token_file=str(folder / "token"),
    )
    service = structs.replace(service, **(other or {}))
    settings = DiscoveryConfig(
        endpoint_slices=service, port=8000, max_refresh_s=max_refresh_s, timeout_s=20.0
    )
    return EndpointSliceLookup(service, settings)


async def found(lookup: EndpointSliceLookup) -> tuple[str, ...]:
    async with asyncio.timeout(30.0):
        return (await lookup()).addresses


async def test_a_change_is_told_when_it_happens(api: KubernetesApi, tmp_path: Path) -> None:
    api.set("a", endpoint("10.0.0.2"), endpoint("10.0.0.1", ready=None))
    lookup = following(api, tmp_path)
    assert await found(lookup) == ("10.0.0.1", "10.0.0.2")
    # What changes while nobody asks is told at the next call.
    api.set("b", endpoint("10.0.0.9"))
    assert await found(lookup) == ("10.0.0.1", "10.0.0.2", "10.0.0.9")
    waiting = asyncio.create_task(found(lookup))
    while api.watches < 2:
        await asyncio.sleep(0.01)
    api.bookmark()
    api.set("a", endpoint("10.0.0.2"), endpoint("10.0.0.1", ready=False))  # the pod is ending
    assert await waiting == ("10.0.0.2", "10.0.0.9")
    api.delete("a")
    assert await found(lookup) == ("10.0.0.9",)
    api.set("b")
    none = await lookup()
    assert (none.addresses, none.is_certain) == ((), True)
    assert api.lists == 1


async def test_a_server_with_both_families_is_one(api: KubernetesApi, tmp_path: Path) -> None:
    api.set("six", endpoint("fd00::2"), endpoint("fd00::1"), kind="IPv6")
    api.set("named", endpoint("vllm.example"), kind="FQDN")
    lookup = following(api, tmp_path)
    assert await found(lookup) == ("fd00::1", "fd00::2")
    api.set("four", endpoint("10.0.0.1"))
    assert await found(lookup) == ("10.0.0.1",)


async def test_a_silent_watch_ends_and_all_are_listed_anew(
    api: KubernetesApi, tmp_path: Path
) -> None:
    api.set("a", endpoint("10.0.0.1"))
    lookup = following(api, tmp_path, max_refresh_s=0.2)
    assert await found(lookup) == await found(lookup) == ("10.0.0.1",)
    assert (api.lists, api.watches) == (2, 1)


async def test_a_version_that_is_too_old_is_listed_anew(api: KubernetesApi, tmp_path: Path) -> None:
    api.set("a", endpoint("10.0.0.1"))
    lookup = following(api, tmp_path)
    await found(lookup)
    for address in ("10.0.0.2", "10.0.0.3"):  # told by the status, and by an event
        api.forget()
        api.slices.clear()
        api.set("a", endpoint(address))
        assert await found(lookup) == (address,)
    assert (api.lists, api.watches) == (3, 2)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (403, "403 endpointslices is refused with 403; give the account of the pod the verbs"),
        (500, "500 endpointslices is refused with 500"),
    ],
)
async def test_a_refusal_is_told_and_the_next_call_lists(
    api: KubernetesApi, tmp_path: Path, status: int, says: str
) -> None:
    lookup = following(api, tmp_path)
    await found(lookup)
    api.status = status
    with pytest.raises(LookupFailed, match=says):
        await lookup()
    api.status = 200
    api.set("a", endpoint("10.0.0.1"))
    assert await found(lookup) == ("10.0.0.1",)


async def test_the_token_is_read_again(api: KubernetesApi, tmp_path: Path) -> None:
    lookup = following(api, tmp_path)
    await found(lookup)
    api.token = "rotated"
    with pytest.raises(LookupFailed, match="401 Unauthorized"):
        await lookup()
    (tmp_path / "token").write_text("rotated")
    assert await found(lookup) == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"token_file": "/nowhere/token"}, "token_file /nowhere/token: .*No such file"),
        ({"api_server": "https://127.0.0.1:1", "ca_file": "/nowhere/ca"}, "ca_file /nowhere/ca"),
        ({"api_server": "http://127.0.0.1:1"}, "ClientConnectorError: "),
    ],
)
async def test_what_is_missing_is_named(
    api: KubernetesApi, tmp_path: Path, change: dict[str, str], says: str
) -> None:
    with pytest.raises(LookupFailed, match=says):
        await following(api, tmp_path, other=change)()


async def test_outside_of_a_cluster_the_api_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    service = EndpointSlicesConfig(service="vllm", namespace="models")
    settings = DiscoveryConfig(endpoint_slices=service, port=8000)
    with pytest.raises(LookupFailed, match=r"give endpoint_slices\.api_server"):
        await EndpointSliceLookup(service, settings)()


async def test_a_cluster_around_the_gateway_is_found(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    (tmp_path / "token").write_text("token")
    service = EndpointSlicesConfig(
        service="vllm", namespace="models", token_file=str(tmp_path / "token"), ca_file="/nowhere"
    )
    settings = DiscoveryConfig(endpoint_slices=service, port=8000)
    with pytest.raises(LookupFailed, match="ca_file /nowhere"):  # it is https
        await EndpointSliceLookup(service, settings)()


@given(garbage=st.binary(min_size=1, max_size=300))
def test_whatever_a_watch_writes_the_servers_stay_known_or_it_fails(garbage: bytes) -> None:
    async def watch(folder: Path) -> None:
        async with kubernetes_api("models", "vllm") as api:
            api.set("a", endpoint("10.0.0.1"))
            lookup = following(api, folder)
            await found(lookup)
            api.garbage = garbage + b"\n"
            with contextlib.suppress(LookupFailed):
                assert await found(lookup) == ("10.0.0.1",)
            api.garbage = b""
            api.set("a", endpoint("10.0.0.2"))
            assert await found(lookup) == ("10.0.0.2",)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(watch(Path(folder)))


async def test_an_event_without_end_is_refused(api: KubernetesApi, tmp_path: Path) -> None:
    lookup = following(api, tmp_path)
    await found(lookup)
    api.garbage = b"[" * (5 << 20)
    with pytest.raises(LookupFailed):
        await lookup()


async def test_an_endpoint_without_an_ip_address_is_named(
    api: KubernetesApi, tmp_path: Path
) -> None:
    api.set("a", endpoint("not-an-address"))
    with pytest.raises(LookupFailed, match="no IP address but 'not-an-address'"):
        await found(following(api, tmp_path))
