"""Pages of keys, tenants and the audit log on a running gateway: by role, with their forms."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import grpc
import msgspec
import pytest

from moegate.v1 import inference_pb2
from tests import serving
from tests.console_serving import (
    ADMIN,
    CALLER,
    OPERATOR,
    Reader,
    ServingConsole,
    Shown,
    console_keys,
    serving_console,
)

PATHS = ("/keys", "/tenants", "/audit")


@pytest.fixture
async def served() -> AsyncIterator[ServingConsole]:
    settings = serving.config(keys=console_keys())
    async with serving_console(settings, ready=False) as running:
        yield running


@pytest.fixture
async def reader(served: ServingConsole) -> AsyncIterator[Reader]:
    async with served.reader(OPERATOR) as made:
        yield made


async def page(reader: Reader, path: str) -> Shown:
    shown = await reader.get(path)
    assert shown.status == 200, shown.words
    assert "style=" not in shown.text
    return shown


async def send(reader: Reader, path: str, form: str = "", **fields: str) -> Shown:
    """Sends the form of a page; `form`: where it goes to, if elsewhere."""
    csrf = (await page(reader, path)).csrf
    return await reader.post(form or path, {"csrf": csrf, **fields})


def secret_of(shown: Shown) -> str:
    assert shown.status == 200, shown.words
    found = re.search(r'<code class="secret">(mg-[A-Za-z0-9_-]+)</code>', shown.text)
    assert found is not None, shown.words
    assert shown.headers["Cache-Control"] == "no-store"
    return found[1]


async def taken(served: ServingConsole, secret: str) -> bool:
    try:
        await served.serving.stub.ListModels(
            inference_pb2.ListModelsRequest(), metadata=(("x-api-key", secret),)
        )
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
            raise
        return False
    return True


@pytest.mark.parametrize(("key", "status"), [(OPERATOR, 200), (ADMIN, 200), (CALLER, 403)])
async def test_each_role_sees_its_pages(served: ServingConsole, key: str, status: int) -> None:
    async with served.reader(key) as reader:
        for path in PATHS:
            shown = await reader.get(path)
            assert shown.status == status
            assert (f'href="{path}" aria-current="page"' in shown.text) == (status == 200)


async def test_a_key_is_made_rotated_and_revoked(served: ServingConsole, reader: Reader) -> None:
    first = secret_of(
        await send(
            *(reader, "/keys"),
            key_id="bot",
            tenant="team",
            role="caller",
            tokens_per_minute="5000",
            expires="2099-01-31",
            no_remotes="1",
        )
    )
    assert await taken(served, first)
    listed = await page(reader, "/keys")
    assert first not in listed.text
    assert first[:9] in listed.text
    shown = await page(reader, "/keys/bot")
    for words in ("in force", "5,000", "Remotes none", "2099-01-31 00:00:00", "by op"):
        assert words in shown.words
    second = secret_of(await send(reader, "/keys/bot", "/keys/bot/rotate", grace="after a day"))
    assert await taken(served, first)
    assert await taken(served, second)
    for grace in ("", "after a year"):  # the secrets of before must not end by mistake
        unknown = await send(reader, "/keys/bot", "/keys/bot/rotate", grace=grace)
        assert unknown.status == 400
    assert await taken(served, second)
    third = secret_of(await send(reader, "/keys/bot", "/keys/bot/rotate", grace="at once"))
    assert not await taken(served, second)
    assert await taken(served, third)
    ended = await send(reader, "/keys/bot", "/keys/bot/expire", expires="2020-01-31")
    assert "The expiry is changed. " in ended.words
    assert not await taken(served, third)
    await send(reader, "/keys/bot", "/keys/bot/expire", expires="")
    assert await taken(served, third)
    gone = await send(reader, "/keys/bot/revoke")
    assert "The key is revoked." in gone.words
    assert not await taken(served, third)
    assert "bot" not in (await page(reader, "/keys")).words
    assert "revoked" in (await page(reader, "/keys?revoked=1")).words
    assert "Rotate" not in (await page(reader, "/keys/bot")).words.split("Revoked")[1]
    audit = await page(reader, "/audit?target=bot")
    assert [word for word in audit.words.split() if word.endswith("Key")] == [
        *("RevokeKey", "UpdateKey", "UpdateKey", "RotateKey", "RotateKey", "CreateKey"),
    ]
    for secret in (first, second, third):
        assert secret not in audit.text


async def test_keys_of_the_file_say_where_they_change(reader: Reader) -> None:
    shown = await page(reader, "/keys/caller")
    assert "The configuration file declares this key" in shown.words
    refused = await reader.post("/keys/caller/rotate", {"csrf": shown.csrf, "grace": "at once"})
    assert refused.status == 409
    assert "change it there and reload" in refused.words


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"key_id": "caller"}, 409),
        ({"key_id": "two words"}, 400),
        ({"key_id": "x", "models": "no-such"}, 400),
        ({"key_id": "x", "tokens_per_minute": "many"}, 400),
        ({"key_id": "x", "expires": "soon"}, 400),
        ({"key_id": "x", "role": "king"}, 400),
    ],
)
async def test_faults_are_said(reader: Reader, fields: dict[str, str], status: int) -> None:
    shown = await send(reader, "/keys", tenant="team", **fields)
    assert shown.status == status, shown.words


async def test_the_models_that_are_offered_are_those_of_the_readers_key() -> None:
    keys = [msgspec.structs.replace(key, models=("far-b",)) for key in console_keys()]
    remotes = [
        msgspec.structs.replace(serving.remote("http://127.0.0.1:9"), name=name, model=name)
        for name in ("far-a", "far-b")
    ]
    async with (
        serving_console(serving.config(remotes=remotes, keys=keys), ready=False) as served,
        served.reader(ADMIN) as admin,
    ):
        told = (await page(admin, "/keys")).words
        assert "such as far-b;" in told
        assert "far-a" not in told


async def test_a_tenants_admin_makes_no_operators(served: ServingConsole) -> None:
    async with served.reader(ADMIN) as reader:
        assert "operator" not in (await page(reader, "/keys")).text.split("<h2>Make a key")[1]
        shown = await send(reader, "/keys", key_id="x", tenant="team", role="operator")
        assert shown.status == 403
        secret_of(await send(reader, "/keys", key_id="mine", tenant="team"))
        assert "Set a tenant" not in (await page(reader, "/tenants")).words
        csrf = (await page(reader, "/keys")).csrf
        denied = await reader.post("/tenants", {"csrf": csrf, "name": "lab"})
        assert denied.status == 403


async def test_tenants_are_set_and_deleted(reader: Reader) -> None:
    shown = await send(reader, "/tenants", name="lab", weight="2.5", rpcs="40")
    assert "The tenant is set." in shown.words
    assert "lab 2.5 40 0" in shown.words
    assert (await send(reader, "/tenants", name="team")).status == 409
    assert (await send(reader, "/tenants", name="lab", weight="heavy")).status == 400
    # What is left empty stays, and a form that has the values of before says all of them.
    assert "lab 2.5 50 0" in (await send(reader, "/tenants", name="lab", rpcs="50")).words
    form = await page(reader, "/tenants?change=lab")
    assert "Change lab" in form.words
    for value in ("2.5", "50"):
        assert f'value="{value}"' in form.text
    fields = {"name": "lab", "whole": "yes", "weight": "2.5", "rpcs": ""}
    assert "lab 2.5 as all 0" in (await send(reader, "/tenants", **fields)).words
    assert "Change team" not in (await page(reader, "/tenants?change=team")).words
    gone = await send(reader, "/tenants/lab/delete")
    assert "The tenant is deleted." in gone.words
    assert "lab 2.5" not in gone.words


async def test_the_session_of_a_revoked_key_is_over(served: ServingConsole, reader: Reader) -> None:
    secret = secret_of(await send(reader, "/keys", key_id="ann", tenant="team", role="operator"))
    async with served.reader(secret) as ann:
        await page(ann, "/keys")
        await send(reader, "/keys/ann/revoke")
        shown = await ann.get("/keys")
        assert shown.path.startswith("/sign-in")
