"""The experts that each request has used: a bounded sketch, kept on the device.

A few layers stand for all. For each running request and each of these layers the choices are
counted by expert; when the request ends, the experts that it used most are its signature.
"""

from __future__ import annotations

import re
from collections import deque

MOST_LAYERS = 4
MOST_EXPERTS = 16
"""Experts of each layer in a signature, those used most."""
MOST_ENDED = 256
"""Signatures that are kept until they are asked for."""
MOST_REQUESTS = 1024
"""Requests that are followed at once; further ones have no signature."""
_UNIQUE = re.compile(r"-[0-9a-f]{8}$")
"""What vLLM's engine adds to the id that the API server gave."""


class Signatures:
    """Follows the running requests of one worker."""

    def __init__(self, experts, layers, most_requests, device) -> None:
        import torch

        self._experts = experts
        shown = min(layers, MOST_LAYERS)
        self.layers = [(2 * one + 1) * layers // (2 * shown) for one in range(shown)]
        """Those that stand for all."""
        self._slots = min(most_requests, MOST_REQUESTS)
        empty = torch.zeros(1, dtype=torch.int32, device=device)
        # One slot more: of the requests that are not followed.
        self._counts = empty.expand(shown, self._slots + 1, experts).clone()
        self._ended = empty.expand(MOST_ENDED, shown, experts).clone()
        self._free = list(range(self._slots))
        self._slot_of: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._names: deque[tuple[str, int]] = deque(maxlen=MOST_ENDED)
        self._number = 0

    def add(self, spans, chosen) -> None:
        """Counts a step. `spans`: request and tokens in the order of the batch; `chosen`: shape
        (layers, tokens, experts per token)."""
        slots: list[int] = []
        for request_id, tokens in spans:
            slot = self._slot_of.get(request_id)
            if slot is None and self._free:
                slot = self._slot_of[request_id] = self._free.pop()
                self._counts[:, slot] = 0
                self._tokens[request_id] = 0
            if slot is not None:
                self._tokens[request_id] += tokens
            slots += [self._slots if slot is None else slot] * tokens
        some = chosen[self.layers]
        first = chosen.new_tensor(slots)
        index = (first.view(1, -1, 1) * self._experts + some).view(len(some), -1)
        counts = self._counts.view(len(some), -1)
        one = counts.new_ones(1, 1)
        counts.scatter_add_(1, index, one.expand(len(some), index.shape[1]))

    def end(self, request_id) -> None:
        """Keeps the sketch of a request that has ended."""
        slot = self._slot_of.pop(request_id, None)
        if slot is None:
            return
        self._ended[self._number % MOST_ENDED] = self._counts[:, slot]
        self._names.append((request_id, self._tokens.pop(request_id)))
        self._number += 1
        self._free.append(slot)

    def take(self) -> list:
        """The signatures since the last call: id of the request, tokens, and for each layer its
        experts, those used most first."""
        names, first = list(self._names), self._number - len(self._names)
        self._names.clear()
        if not names:
            return []
        rows = [number % MOST_ENDED for number in range(first, self._number)]
        most = min(MOST_EXPERTS, self._experts)
        counts, experts = (part.tolist() for part in self._ended[rows].topk(most))
        return [
            [
                _UNIQUE.sub("", name),
                tokens,
                [
                    [expert for expert, uses in zip(*layer, strict=True) if uses]
                    for layer in zip(experts[one], counts[one], strict=True)
                ],
            ]
            for one, (name, tokens) in enumerate(names)
        ]
