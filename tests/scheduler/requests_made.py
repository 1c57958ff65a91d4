"""Requests for tests of the scheduler: everything has a default."""

from __future__ import annotations

from scheduler.contract import Request, Slo, SloClass
from scheduler.prefix.token_blocks import TokenBlocks


def request(
    request_id: str,
    slo_class: SloClass = SloClass.INTERACTIVE,
    *,
    model: str = "moe",
    arrival_s: float = 0.0,
    deadline_s: float = 1000.0,
    max_queue_s: float = 10.0,
    priority: int = 0,
    prompt_tokens: int = 100,
    prompt_tokens_exact: bool = False,
    max_output_tokens: int = 100,
    choices: int = 1,
    size_bytes: int = 10,
    remote_classes: frozenset[str] = frozenset(),
    unsupported_by: frozenset[str] = frozenset(),
    tenant: str = "team",
    weight: float = 1.0,
    key_id: str = "",
    ttft_s: float = 2.0,
    tpot_s: float = 0.05,
    prefix_blocks: tuple[int, ...] = (),
    prefix_block_tokens: int = 512,
    token_blocks: tuple[TokenBlocks, ...] = (),
    whole_answer: bool = False,
    inputs: int = 1,
) -> Request:
    return Request(
        request_id=request_id,
        tenant=tenant,
        model=model,
        arrival_s=arrival_s,
        deadline_s=deadline_s,
        slo=Slo(
            slo_class=slo_class,
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            max_queue_s=max_queue_s,
        ),
        priority=priority,
        prompt_tokens=prompt_tokens,
        prompt_tokens_exact=prompt_tokens_exact,
        max_output_tokens=max_output_tokens,
        choices=choices,
        size_bytes=size_bytes,
        remote_classes=remote_classes,
        unsupported_by=unsupported_by,
        weight=weight,
        key_id=key_id,
        prefix_blocks=prefix_blocks,
        prefix_block_tokens=prefix_block_tokens,
        token_blocks=token_blocks,
        whole_answer=whole_answer,
        inputs=inputs,
    )
