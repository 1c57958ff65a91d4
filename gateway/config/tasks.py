"""What the servers of a model do: generate text, make vectors, or rate documents."""

from __future__ import annotations

import enum


class Task(enum.StrEnum):
    """What the servers of a pool, or a remote, do."""

    GENERATE = "generate"
    EMBED = "embed"
    """Make vectors of texts (vLLM: a model served by its pooling runner for embeddings). vLLM and
    other gateways rate documents with such a model, too."""
    SCORE = "score"
    """Rate documents by how well they answer a query (rerankers). A remote is called at /rerank."""


def tasks_with(task: Task, *, by_vectors: bool) -> frozenset[Task]:
    """Requests that a server with this task takes. `by_vectors`: it rates documents by their
    vectors, if it makes any."""
    if task is Task.EMBED and by_vectors:
        return frozenset({Task.EMBED, Task.SCORE})
    return frozenset({task})
