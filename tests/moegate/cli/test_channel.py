"""The channel of the commands: what is wrong with the key, the TLS files and a call is one text."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from moegate.cli.channel import (
    KEY_VARIABLE,
    add_channel_arguments,
    call_metadata,
    call_method,
    error_text,
    is_unavailable,
    open_channel,
)
from moegate.cli.command_runner import INTERRUPTED, CommandFailed, run_command

ROOT = Path(__file__).resolve().parents[3]


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_channel_arguments(parser)
    return parser.parse_args(given)


def error(
    *details: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo,
) -> grpc.aio.AioRpcError:
    status = status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="full")
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing, details="full"
    )


def test_the_key_comes_from_the_argument_then_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert call_metadata(arguments()) == ()
    monkeypatch.setenv(KEY_VARIABLE, "mg-env")
    assert call_metadata(arguments()) == (("authorization", "Bearer mg-env"),)
    assert call_metadata(arguments("--key", "mg-a")) == (("authorization", "Bearer mg-a"),)


@pytest.mark.parametrize("key", ["mg-ä", "mg-a\nb"])
def test_a_key_that_no_header_can_carry_is_told(key: str) -> None:
    with pytest.raises(CommandFailed, match="is it whole, on one line"):
        call_metadata(arguments("--key", key))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--ca", "x.pem"], "give --tls too"),
        (["--tls", "--cert", "x.pem"], "go together"),
        (["--tls", "--ca", "missing.pem"], "missing.pem cannot be read"),
    ],
)
async def test_tls_files_that_cannot_be_used_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandFailed, match=told):
        async with open_channel(arguments(*given)):
            pass


async def test_a_failed_call_becomes_the_failure_of_the_command() -> None:
    with pytest.raises(CommandFailed, match="UNAVAILABLE: full") as caught:
        async with open_channel(arguments()):
            raise error()
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)


async def test_where_no_gateway_listens_the_address_is_asked_for() -> None:
    args = arguments("--target", "127.0.0.1:1")
    with pytest.raises(CommandFailed, match=r"UNAVAILABLE: failed to connect.*\n.*--target"):
        async with open_channel(args) as channel:
            await call_method(args, channel.unary_unary("/moegate.v1.None/None"), b"", 30.0)


def test_the_text_of_an_error_has_the_advice_of_its_details() -> None:
    assert error_text(error()) == "UNAVAILABLE: full"
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2))
    assert error_text(error(retry)) == "UNAVAILABLE: full\ntry again in 2.0 s"
    partial = error_details_pb2.ErrorInfo(reason="PARTIAL_OUTPUT")
    assert error_text(error(partial)).endswith("\nthe text above is not the whole answer")
    nobody = error_details_pb2.ErrorInfo(reason="UNAUTHENTICATED")
    assert KEY_VARIABLE in error_text(error(nobody))
    assert is_unavailable(error())


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (None, 0, ""),
        (CommandFailed("no such file"), 1, "no such file\n"),
        (KeyboardInterrupt(), INTERRUPTED, "cancelled\n"),
    ],
)
def test_a_command_ends_with_a_status_and_its_failure_on_stderr(
    raised: BaseException | None, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work() -> None:
        if raised is not None:
            raise raised

    assert run_command(work()) == status
    assert capsys.readouterr().err == told


def test_no_other_module_of_the_command_line_imports_grpc() -> None:
    found = set()
    for path in (ROOT / "moegate" / "cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.partition(".")[0] in ("grpc", "grpc_status") for name in names):
                found.add(path.name)
    assert found == {"channel.py"}
