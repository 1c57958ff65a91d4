"""`moegate keys`, `moegate tenants` and `moegate audit` against a real gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from moegate.cli.main import main
from tests import serving
from tests.integration.access.test_run_time_keys import Stack, running

Command = Callable[..., Coroutine[Any, Any, tuple[int, str, str]]]


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path) as made:
        yield made


@pytest.fixture
def moegate(
    stack: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Runs a command as the operator on 80 columns: exit status, standard output and error."""
    monkeypatch.setenv("MOEGATE_API_KEY", "mg-boss")
    monkeypatch.setenv("COLUMNS", "80")

    async def run(*arguments: str) -> tuple[int, str, str]:
        target = ("--target", stack.serving.gateway.address)
        status = await asyncio.to_thread(main, [*arguments, *target])
        out, err = capsys.readouterr()
        assert "--json" in arguments or all(len(line) <= 80 for line in out.splitlines()), out
        return status, out, err

    return run


def secret_of(out: str) -> str:
    [secret] = [line for line in out.splitlines() if line.startswith("mg-")]
    return secret


async def test_a_key_is_created_listed_rotated_and_revoked(stack: Stack, moegate: Command) -> None:
    status, out, _ = await moegate(
        *("keys", "create", "bot", "--model", serving.MODEL, "--expires", "90d"),
        *("--tokens-per-minute", "5000", "--slo-class", "batch", "--no-remotes"),
    )
    assert status == 0
    first = secret_of(out)
    assert await stack.taken(first)
    status, out, _ = await moegate("keys", "list")
    assert (status, first in out) == (0, False)
    [row] = [line for line in out.splitlines() if line.strip().startswith("bot")]
    assert "in force" in row
    assert "run time" in row
    assert first[:9] in row
    status, out, _ = await moegate("keys", "rotate", "bot", "--grace", "1h")
    second = secret_of(out)
    assert "older secrets" in out
    assert await stack.taken(first)
    assert await stack.taken(second)
    status, out, _ = await moegate("keys", "revoke", "bot")
    assert status == 0
    assert not await stack.taken(second)
    assert "bot" not in (await moegate("keys", "list"))[1]
    assert "revoked" in (await moegate("keys", "list", "bot", "--revoked"))[1]


async def test_an_update_keeps_what_is_not_given(stack: Stack, moegate: Command) -> None:
    await moegate("keys", "create", "bot", "--tokens-per-minute", "5000", "--max-priority", "2")
    status, out, _ = await moegate(
        *(
            "keys",
            "update",
            "bot",
            "--requests-per-minute",
            "7",
            "--expires",
            "2030-01-31",
            "--json",
        )
    )
    assert status == 0
    assert json.loads(out)["key"]["settings"] == {
        "role": "KEY_ROLE_CALLER",
        "max_priority": 2,
        "limits": {"requests_per_minute": "7", "tokens_per_minute": "5000"},
        "expires_at": "2030-01-31T00:00:00Z",
    }
    status, out, _ = await moegate("keys", "update", "bot", "--expires", "never", "--json")
    assert "expires_at" not in json.loads(out)["key"]["settings"]
    status, _, err = await moegate("keys", "update", "bot")
    assert (status, "nothing to change" in err) == (1, True)


async def test_what_cannot_be_changed_is_said(stack: Stack, moegate: Command) -> None:
    status, _, err = await moegate("keys", "revoke", "test")
    assert status == 1
    assert "declared in the configuration" in err
    status, _, err = await moegate("keys", "create", "bot", "--model", "nope")
    assert status == 1
    assert "settings.models[0]" in err
    with pytest.raises(SystemExit):
        await moegate("keys", "rotate", "bot", "--grace", "soon")


async def test_tenants_are_set_listed_and_deleted(stack: Stack, moegate: Command) -> None:
    status, out, _ = await moegate("tenants", "set", "lab", "--weight", "2.5", "--rpcs", "40")
    assert status == 0
    assert "2.5" in out
    status, out, _ = await moegate("tenants", "list", "--json")
    listed = {tenant["name"]: tenant for tenant in json.loads(out)["tenants"]}
    assert listed["lab"] == {
        "name": "lab",
        "weight": 2.5,
        "rpcs": "40",
        "owner": "OWNER_RUN_TIME",
    }
    assert listed["team"]["owner"] == "OWNER_FILE"
    _, out, _ = await moegate("tenants", "set", "lab", "--rpcs", "50", "--json")
    assert (json.loads(out)["tenant"]["weight"], json.loads(out)["tenant"]["rpcs"]) == (2.5, "50")
    _, out, _ = await moegate("tenants", "set", "lab", "--rpcs", "none", "--json")
    assert json.loads(out)["tenant"]["weight"] == 2.5
    assert "rpcs" not in json.loads(out)["tenant"]
    with pytest.raises(SystemExit):
        await moegate("tenants", "set", "lab", "--rpcs", "many")
    assert (await moegate("tenants", "delete", "lab"))[0] == 0
    assert "lab" not in (await moegate("tenants", "list"))[1]


async def test_the_audit_log_is_shown(stack: Stack, moegate: Command) -> None:
    await moegate("tenants", "set", "lab")
    await moegate("keys", "create", "bot", "--tenant", "lab")
    await moegate("admin", "drain", "own/a")
    status, out, _ = await moegate("audit")
    assert status == 0
    assert [word for word in out.split() if word in ("Drain", "CreateKey", "SetTenant")] == [
        *("Drain", "CreateKey", "SetTenant"),
    ]
    status, out, _ = await moegate("audit", "--tenant", "lab", "--on", "bot", "--json")
    [event] = json.loads(out)["events"]
    assert (event["actor"], event["action"]) == ("boss", "CreateKey")
    assert len(json.loads((await moegate("audit", "--most", "2", "--json"))[1])["events"]) == 2
