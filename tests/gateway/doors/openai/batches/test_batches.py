"""The openai SDK's batch example against the gateway, and what surrounds it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from msgspec import structs
from openai.types import Batch, FileObject

from scheduler.contract import SloClass
from tests import serving
from tests.gateway.batch.rig import CHAT, line
from tests.gateway.doors.openai.rig import Rig, rig
from tests.http_serving import serving_http
from tests.serving import MODEL


@pytest.fixture
async def made() -> AsyncIterator[Rig]:
    async with rig() as found:
        yield found


async def upload(client: openai.AsyncOpenAI, content: bytes) -> FileObject:
    return await client.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch")


async def ended(client: openai.AsyncOpenAI, batch: Batch) -> Batch:
    async with asyncio.timeout(60.0):
        while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
            await asyncio.sleep(0.1)
            batch = await client.batches.retrieve(batch.id)
    return batch


def parsed(content: str) -> list[Any]:
    return [json.loads(each) for each in content.splitlines()]


async def test_the_sdks_example_works_unchanged(made: Rig, tmp_path: Path) -> None:
    """The steps of OpenAI's guide: prepare, upload, create, check, retrieve."""
    client = made.client
    path = tmp_path / "batchinput.jsonl"
    requests = [
        {
            "custom_id": f"request-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": MODEL,
                "messages": [
                    {"role": "system", "content": "You are a helpful assistant."},
                    {"role": "user", "content": f"Hello world {number}!"},
                ],
                "max_tokens": 1000,
            },
        }
        for number in (1, 2)
    ]
    path.write_text("".join(json.dumps(each) + "\n" for each in requests))
    with path.open("rb") as content:
        batch_input_file = await client.files.create(file=content, purpose="batch")
    assert (batch_input_file.object, batch_input_file.purpose) == ("file", "batch")
    assert batch_input_file.filename == "batchinput.jsonl"
    assert batch_input_file.bytes == path.stat().st_size
    batch = await client.batches.create(
        input_file_id=batch_input_file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"description": "nightly eval job"},
    )
    assert (batch.object, batch.status, batch.completion_window) == ("batch", "validating", "24h")
    assert batch.metadata == {"description": "nightly eval job"}
    batch = await ended(client, batch)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (2, 2, 0)
    assert batch.errors is None
    assert batch.error_file_id is None
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens) == (24, 14)
    assert batch.output_file_id is not None
    output = await client.files.content(batch.output_file_id)
    found = parsed(output.text)
    assert [each["custom_id"] for each in found] == ["request-1", "request-2"]
    first = found[0]
    assert set(first) == {"id", "custom_id", "response", "error"}
    assert first["id"].startswith("batch_req_")
    assert first["error"] is None
    assert first["response"]["status_code"] == 200
    body = first["response"]["body"]
    assert body["choices"][0]["message"]["content"] == "Hello there."
    assert first["response"]["request_id"] in body["id"]
    assert (await client.files.retrieve(batch.output_file_id)).purpose == "batch_output"
    listed = [each async for each in client.batches.list(limit=1)]
    assert [each.id for each in listed] == [batch.id]
    names = {each.id async for each in client.files.list()}
    assert names == {batch_input_file.id, batch.output_file_id}
    deleted = await client.files.delete(batch_input_file.id)
    assert (deleted.id, deleted.deleted) == (batch_input_file.id, True)
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(batch_input_file.id)


async def test_a_bad_line_is_told_and_a_bad_request_is_in_the_error_file(made: Rig) -> None:
    content = b"\n".join(
        [
            line("good", model=MODEL),
            b"no json",
            line("good", model=MODEL),
            line("hot", body={"model": MODEL, "messages": [], "temperature": 9}),
            line("nobody", model="nobody"),
        ]
    )
    file = await upload(made.client, content)
    batch = await made.client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    batch = await ended(made.client, batch)
    assert batch.status == "completed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    told = [(each.line, each.code) for each in batch.errors.data]
    assert told == [(2, "invalid_json_line"), (3, "duplicate_custom_id")]
    assert batch.error_file_id is not None
    failed = parsed((await made.client.files.content(batch.error_file_id)).text)
    assert [each["custom_id"] for each in failed] == ["hot", "nobody"]
    assert [each["response"]["status_code"] for each in failed] == [400, 404]
    assert "messages" in failed[0]["response"]["body"]["error"]["message"]
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)


ENDPOINTS = {
    "/v1/completions": {"model": MODEL, "prompt": "say"},
    "/v1/responses": {"model": MODEL, "input": "say"},
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_other_endpoints(made: Rig, endpoint: Any) -> None:
    file = await upload(made.client, line("a", url=endpoint, body=ENDPOINTS[endpoint]))
    batch = await made.client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h"
    )
    batch = await ended(made.client, batch)
    assert batch.output_file_id is not None, batch
    [found] = parsed((await made.client.files.content(batch.output_file_id)).text)
    direct = await made.post(endpoint, **ENDPOINTS[endpoint])
    assert found["response"]["body"].keys() == direct[1].keys()


async def test_items_run_in_the_batch_class_with_the_terms_of_the_headers(made: Rig) -> None:
    file = await upload(made.client, line("a", model=MODEL))
    batch = await made.client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        extra_headers={"x-moegate-data-policy": "local-only", "x-moegate-session-id": "night"},
    )
    await ended(made.client, batch)
    await asyncio.sleep(0)
    accounting = made.http.gateway.accounting
    rows = await accounting.write(
        lambda tx: tx.rows("SELECT request_id, slo_class, session_id FROM attempt")
    )
    assert rows == [(f"{batch.id}-1", "batch", "night")]


async def test_a_cancelled_batch(made: Rig) -> None:
    made.script.frames, made.script.end = (), "hang"
    file = await upload(made.client, line("a", model=MODEL) + b"\n" + line("b", model=MODEL))
    batch = await made.client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    batch = await made.client.batches.cancel(batch.id)
    assert batch.status == "cancelling"
    batch = await ended(made.client, batch)
    assert batch.status == "cancelled"
    with pytest.raises(openai.ConflictError, match="there is nothing to cancel"):
        await made.client.batches.cancel(batch.id)
    assert batch.error_file_id is not None
    failed = parsed((await made.client.files.content(batch.error_file_id)).text)
    assert [each["error"]["code"] for each in failed] == ["batch_cancelled"] * 2


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"purpose": "batch"}, "file: the form has no file: send one"),
        ({"file": b"x"}, "purpose: none: give batch"),
        ({"file": b"x", "purpose": "fine-tune"}, "purpose: 'fine-tune': give batch"),
        (
            {"file": b"x", "purpose": "batch", "expires_after[seconds]": "5"},
            "expires_after.seconds: '5': give 3600 to 2592000",
        ),
        ({"file": b"x", "purpose": "b" * 2000}, "purpose: more than 1024 bytes"),
        ({f"f{number}": "x" for number in range(20)}, "more than 16 parts"),
    ],
)
async def test_a_form_that_is_wrong_leaves_nothing(
    made: Rig, fields: dict[str, Any], text: str
) -> None:
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        form.add_field(name, value, filename="f" if name == "file" else None)
    async with made.http.session.post(made.http.url + "/v1/files", data=form) as response:
        found = await response.json()
        assert response.status == 400, found
    assert text in found["error"]["message"]
    [(files,)] = await made.http.gateway.accounting.database.read(
        lambda tx: tx.rows("SELECT COUNT(*) FROM batch_file")
    )
    assert files == 0


async def test_a_body_that_is_no_form(made: Rig) -> None:
    status, found = await made.post("/v1/files")
    assert (status, found["error"]["type"]) == (415, "invalid_request_error")
    headers = {"Content-Type": "multipart/form-data"}
    url = made.http.url + "/v1/files"
    async with made.http.session.post(url, data=b"x", headers=headers) as response:
        assert response.status == 400
        assert "no multipart/form-data" in (await response.json())["error"]["message"]


FILE = b'Content-Disposition: form-data; name="file"; filename="f"'


def form_of(*parts: bytes) -> bytes:
    """A form of parts, each its headers, an empty line and its content; between boundaries B."""
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + b"--B--\r\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (form_of(b"no header\r\n\r\nx"), "Invalid HTTP header"),
        (form_of(FILE[:-1] + b'\x1b"\r\n\r\nx'), "Invalid HTTP header"),
        (form_of(FILE[:-1] + b"f" * 9000 + b'"\r\n\r\nx'), "more than 8190 bytes"),
        (form_of(b"X: y\r\n" * 200 + b"\r\nx"), "Too many headers"),
        (form_of(b'Content-Disposition: form-data; name="_charset_"\r\n\r\nutf-8'), "no multipart"),
        (
            form_of(b'Content-Disposition: form-data; name="_charset_"\r\n\r\n' + b"u" * 99),
            "Invalid default charset",
        ),
        (form_of(FILE + b"\r\nContent-Transfer-Encoding: base64\r\n\r\neA=="), "plain bytes"),
        (b"j" * 1_000_000, "more than 524288 bytes"),
        (b"preamble\r\n" * 1000 + form_of(FILE + b"\r\n\r\nx"), "does not begin with b'--B'"),
        (b"--A\r\n" * 1000 + form_of(FILE + b"\r\n\r\nx"), "does not begin with b'--B'"),
        (form_of(FILE + b"\r\n\r\nx")[:-6], "no multipart"),
        (b"", "does not begin with b'--B'"),
        (b"\r\n" + form_of(FILE + b"\r\n\r\nx"), "purpose: none"),
    ],
)
async def test_a_form_that_cannot_be_read_is_the_callers_fault(
    made: Rig, body: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    url = made.http.url + "/v1/files"
    async with made.http.session.post(url, data=body, headers=headers) as response:
        found = await response.json()
    assert response.status == 400, found
    assert said in found["error"]["message"]
    assert not [each for each in caplog.records if each.exc_info]


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"endpoint": "/v1/none"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
    ],
)
async def test_a_batch_that_cannot_be_made(made: Rig, changed: dict[str, Any], param: str) -> None:
    file = await upload(made.client, line("a"))
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"} | changed
    async with made.http.session.post(made.http.url + "/v1/batches", json=body) as response:
        found = await response.json()
        assert response.status in (400, 404), found
    assert found["error"]["param"] == param


@pytest.mark.parametrize("path", ["/v1/batches/none", "/v1/files/none", "/v1/files/none/content"])
async def test_what_is_not_there(made: Rig, path: str) -> None:
    async with made.http.session.get(made.http.url + path) as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "batch_not_found"


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=101", "after=none"])
async def test_a_page_that_is_none(made: Rig, query: str) -> None:
    async with made.http.session.get(f"{made.http.url}/v1/batches?{query}") as response:
        assert response.status in (400, 404)


async def test_a_key_without_the_class_batch_makes_none() -> None:
    settings = serving.config(pools=[serving.pool(["http://127.0.0.1:9"])])
    [tenant] = settings.tenants
    key = structs.replace(tenant.keys[0], slo_classes=(SloClass.INTERACTIVE,))
    settings = structs.replace(settings, tenants=(structs.replace(tenant, keys=(key,)),))
    body = {"input_file_id": "f", "endpoint": CHAT, "completion_window": "24h"}
    async with serving_http(settings, ready=False) as http:
        status, found = await http.post("/v1/batches", body)
    assert status == 403
    assert "may use the classes interactive: a batch needs the class batch" in str(found)


async def test_a_large_file_comes_back_as_it_was_sent(made: Rig) -> None:
    content = b"\n".join(line(f"c{n}", "x" * 1000) for n in range(1500))
    file = await upload(made.client, content)
    assert (await made.client.files.content(file.id)).content == content


async def test_a_file_is_quoted(made: Rig) -> None:
    content = line("a", model=MODEL) + b"\n" + line("b", model="nobody") + b"\n{"
    file = await upload(made.client, content)
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    quote: Any = await made.client.post("/batches/quote", body=body, cast_to=object)
    assert (quote["object"], quote["requests"], quote["bad_lines"]) == ("batch.quote", 2, 1)
    assert (quote["sampled"], quote["refused"]) == (2, 1)
    assert "'nobody' is not served here" in quote["refusal"]
    assert (quote["own_usd"], quote["ends_at"]) == (None, None)
    assert [each async for each in made.client.batches.list()] == []
    with pytest.raises(openai.NotFoundError):
        await made.client.post(
            "/batches/quote", body={**body, "input_file_id": "none"}, cast_to=object
        )
