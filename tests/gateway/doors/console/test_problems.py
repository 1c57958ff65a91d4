"""What failed RPCs are to the readers of pages."""

from __future__ import annotations

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from gateway.doors.console.problems import Problem, of_rpc


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.CANCELLED, 503),  # the gateway stops amid the RPC
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.PERMISSION_DENIED, 403),
        (grpc.StatusCode.INTERNAL, 500),
    ],
)
def test_an_rpc_that_fails_has_the_status_of_its_reason(code: grpc.StatusCode, status: int) -> None:
    problem = of_rpc(AioRpcError(code, Metadata(), Metadata(), details="why"))
    assert (problem.status, problem.text) == (status, "why")


def test_a_problem_without_words_is_told_by_its_code() -> None:
    problem = of_rpc(AioRpcError(grpc.StatusCode.CANCELLED, Metadata(), Metadata()))
    assert problem == Problem(503, "The gateway cannot answer now", "CANCELLED")
