"""`moegate batch` against a real gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.gateway import KeyConfig, KeyRole, TenantConfig
from gateway.config.resolve.api_keys import key_sha256
from moegate.cli.main import main
from tests import serving
from tests.gateway.batch.rig import CHAT, line
from tests.gateway.doors.openai.rig import text_frames
from tests.scripted import Scripted, listening
from tests.serving import KEY, MODEL

OPERATOR = "mg-operator"
Command = Callable[..., Coroutine[Any, Any, tuple[int, str, str]]]


@pytest.fixture
async def script() -> AsyncIterator[Scripted]:
    scripted = Scripted(frames=text_frames("Hello", " there."))
    async with listening(scripted):
        yield scripted


@pytest.fixture
async def moegate(
    script: Scripted, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Command]:
    """Runs a command: exit status, standard output, standard error."""
    monkeypatch.setenv("MOEGATE_API_KEY", KEY)
    operator = KeyConfig(id="op", sha256=key_sha256(OPERATOR), role=KeyRole.OPERATOR)
    settings = serving.config(pools=[serving.pool([script.url])])
    platform = TenantConfig(name="platform", keys=(operator,))
    settings = msgspec.structs.replace(settings, tenants=(*settings.tenants, platform))
    async with serving.serving(settings) as served:

        async def run(*arguments: str) -> tuple[int, str, str]:
            target = ("--target", served.gateway.address)
            status = await asyncio.to_thread(main, ["batch", *arguments, *target])
            out, err = capsys.readouterr()
            return status, out, err

        yield run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join([line("a", model=MODEL), b"{", line("b", model=MODEL)]))
    return path


async def test_from_file_to_results(moegate: Command, file: Path, tmp_path: Path) -> None:
    status, out, err = await moegate(
        *("submit", str(file), "--wait", "--within", "2h", "--metadata", "who=me"),
        *("--max-cost", "5", "--local-only"),
    )
    # Without prices a limit on the cost cannot be kept.
    assert (status, "2 of 2, 2 failed" in out) == (0, True), err
    status, out, err = await moegate("submit", str(file), "--wait")
    assert status == 0, err
    batch_id, *told = out.splitlines()
    assert told[0] == f"{batch_id}: ended"
    assert "requests   2 of 2, 0 failed" in out
    assert "bad lines  1" in out
    assert "2: the line is no JSON object" in out
    assert "2 without a price" in out
    assert "2/2" in err  # the bar
    status, out, _ = await moegate("results", batch_id, "--in-order")
    assert [json.loads(each)["custom_id"] for each in out.splitlines()] == ["a", "b"]
    target = tmp_path / "out.jsonl"
    status, out, _ = await moegate("results", batch_id, "--skip", "1", "--output", str(target))
    assert (status, out, len(target.read_text().splitlines())) == (0, "", 1)
    status, out, _ = await moegate("list")
    assert batch_id in out
    assert out.index(batch_id) < out.index("requests") or "ended" in out
    status, _, err = await moegate("cancel", batch_id)
    assert (status, "there is nothing to cancel" in err) == (1, True)


async def test_operators_list_the_jobs_of_all_tenants(
    moegate: Command, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = await moegate("submit", str(file), "--endpoint", CHAT)
    batch_id = out.split()[0]
    status, _, err = await moegate("list", "--all-tenants")
    assert (status, "operator" in err) == (1, True)
    monkeypatch.setenv("MOEGATE_API_KEY", OPERATOR)
    assert batch_id not in (await moegate("list"))[1]
    status, out, err = await moegate("list", "--all-tenants")
    assert status == 0, err
    [row] = [each for each in out.splitlines() if batch_id in each]
    assert "team" in row
    status, out, _ = await moegate("get", batch_id)
    assert (status, batch_id in out) == (0, True)
    assert (await moegate("results", batch_id))[0] == 1


async def test_a_file_is_quoted(moegate: Command, file: Path) -> None:
    status, out, err = await moegate("quote", str(file), "--within", "2h")
    assert status == 0, err
    assert "requests   2\n" in out
    assert "2: the line is no JSON object" in out
    assert "own        unknown" in out  # there are no prices
    assert "ends about unknown" in out
    status, out, _ = await moegate("list")
    assert "batch_" not in out


async def test_a_job_is_cancelled(moegate: Command, file: Path, script: Scripted) -> None:
    script.frames, script.end = (), "hang"
    status, out, _ = await moegate("submit", str(file), "--endpoint", CHAT)
    batch_id = out.strip()
    status, out, _ = await moegate("cancel", batch_id)
    assert (status, out.splitlines()[0]) == (0, f"{batch_id}: cancelling")
    status, out, _ = await moegate("get", batch_id, "--wait")
    assert (status, out.splitlines()[0]) == (0, f"{batch_id}: cancelled")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["submit", "/none"], "/none: there is no such file"),
        (["get", "none"], "NOT_FOUND: there is no batch 'none'"),
        (["results", "none", "--output", "/none/x"], "/none/x: No such file or directory"),
    ],
)
async def test_failures(moegate: Command, arguments: list[str], text: str) -> None:
    status, _, err = await moegate(*arguments)
    assert (status, text in err) == (1, True), err


async def test_a_file_whose_first_line_says_nothing(moegate: Command, tmp_path: Path) -> None:
    path = tmp_path / "odd"
    path.write_text("[]\n")
    status, _, err = await moegate("submit", str(path))
    assert (status, "give --endpoint" in err) == (1, True)
    status, out, _ = await moegate("submit", str(path), "--endpoint", CHAT, "--wait")
    assert (status, "failed" in out) == (0, True)


@pytest.mark.parametrize(
    "arguments",
    [["--within", "soon"], ["--max-cost", "0"], ["--max-cost", "x"], ["--metadata", "x"]],
)
def test_arguments_that_are_none(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["batch", "submit", "f", *arguments])
