"""Runs what a command asks of a gateway, and tells what went wrong."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine

import grpc

from moegate.cli import channel as client


def status_of(work: Coroutine[None, None, None]) -> int:
    """Runs it to its end; the exit status."""
    try:
        asyncio.run(work)
    except grpc.aio.AioRpcError as error:
        print(client.explain(error), file=sys.stderr)
        return 1
    except client.CannotAsk as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)
        return client.INTERRUPTED
    return 0
