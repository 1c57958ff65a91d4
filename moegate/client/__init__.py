"""The Python client of the moegate gateway. It needs grpcio and protobuf only.

    from moegate.client import Client

    with Client("127.0.0.1:50051", key="mg-...") as client:
        answer = client.chat("moe", "Why is the sky blue?")
        print(answer.text, answer.cost)

`AsyncClient` is the same for asyncio.
"""

from moegate.client.answers import Account, Answer, Choice, Cost, Piece, Route, Timings, Usage
from moegate.client.async_client import AsyncClient, AsyncStream
from moegate.client.batches import Batch, BatchItem, BatchResult
from moegate.client.connection import Tls
from moegate.client.errors import MoegateError
from moegate.client.generation_options import GenerationOptions
from moegate.client.messages import Chat, Image, Message, Signature, Tool, ToolCall, tool_result
from moegate.client.pooling import Embeddings, PoolingOptions, Scores
from moegate.client.reports import Candidate, Explanation, Model, Spend, SpendRow, TokenCount
from moegate.client.sync_client import Client, Stream

__all__ = [
    "Account",
    "Answer",
    "AsyncClient",
    "AsyncStream",
    "Batch",
    "BatchItem",
    "BatchResult",
    "Candidate",
    "Chat",
    "Choice",
    "Client",
    "Cost",
    "Embeddings",
    "Explanation",
    "GenerationOptions",
    "Image",
    "Message",
    "Model",
    "MoegateError",
    "Piece",
    "PoolingOptions",
    "Route",
    "Scores",
    "Signature",
    "Spend",
    "SpendRow",
    "Stream",
    "Timings",
    "Tls",
    "TokenCount",
    "Tool",
    "ToolCall",
    "Usage",
    "tool_result",
]
