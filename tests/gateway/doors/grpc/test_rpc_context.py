"""What a handler's exceptions become."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import pytest

from gateway.doors.grpc.rpc_context import Context, rpc_errors


class NoContext:
    """Fails if a status is sent: the client is gone."""

    def code(self) -> None:
        return None

    async def abort(self, *_: object) -> None:
        raise AssertionError("nobody can be told")


async def test_a_write_to_a_client_that_is_gone_is_no_fault_of_the_gateway(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler() -> None:
        async with rpc_errors(cast(Context, cast(Any, NoContext()))):
            raise grpc.aio.InternalError("Failed execute_batch")

    with pytest.raises(asyncio.CancelledError):
        await handler()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
