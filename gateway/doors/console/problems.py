"""What a page shows in place of its content: problems, with the status of the answer."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

_OF_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, "This cannot be shown"),
    grpc.StatusCode.OUT_OF_RANGE: (400, "This cannot be shown"),
    grpc.StatusCode.UNAUTHENTICATED: (401, "You are not signed in"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "Your role may not see this"),
    grpc.StatusCode.NOT_FOUND: (404, "There is no such thing"),
    grpc.StatusCode.ALREADY_EXISTS: (409, "It exists already"),
    grpc.StatusCode.FAILED_PRECONDITION: (409, "This is not possible now"),
    grpc.StatusCode.ABORTED: (409, "This is not possible now"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "Too much at once"),
    # A page does not cancel an RPC that it waits for: the gateway stops.
    grpc.StatusCode.CANCELLED: (503, "The gateway cannot answer now"),
    grpc.StatusCode.UNAVAILABLE: (503, "The gateway cannot answer now"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "The answer took too long"),
}


@dataclass(frozen=True, slots=True)
class Problem(Exception):
    """A page cannot be shown. `status`: of HTTP. `text`: for the reader."""

    status: int
    title: str
    text: str


def of_rpc(error: grpc.aio.AioRpcError) -> Problem:
    """Returns the problem that a failed RPC is to the reader."""
    status, title = _OF_STATUS.get(error.code(), (500, "The gateway failed"))
    return Problem(status, title, error.details() or error.code().name)
