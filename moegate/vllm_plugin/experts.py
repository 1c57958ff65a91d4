"""Counts in vLLM's worker which experts the routers choose. Checked against vLLM 0.32 on the CPU.

Entry point group `vllm.general_plugins`, which vLLM calls in each of its processes. It does nothing
unless MOEGATE_EXPERTS is 1. Then each MoE layer's router also copies its choice into a buffer on
the device, where a step is reduced to a few integers. Nothing is copied to the host before the API
server asks for what is new (`expert_pull.py`), so that a step never waits for a copy.

Only the first tensor-parallel worker of the first pipeline stage counts: the others of its stage
see the same choices.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from functools import partial

from moegate.vllm_plugin.signatures import Signatures

log = logging.getLogger(__name__)

SWITCH, ON = "MOEGATE_EXPERTS", "1"
"""Environment variable that switches the counting on."""
MOST_TOKENS = 1024
"""Tokens of the largest step that is counted: larger ones touch all experts anyway."""
MOST_KEPT = 2048
"""Steps that the worker keeps until it is asked."""


def is_on() -> bool:
    """Whether this process counts experts."""
    return os.environ.get(SWITCH) == ON


def register() -> None:
    """Makes every worker of this process count. vLLM may call it several times."""
    if not is_on():
        return
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    if hasattr(WorkerWrapperBase, "moegate_experts"):
        return
    execute_model = WorkerWrapperBase.execute_model

    def counted_execute_model(wrapper, scheduler_output):
        output = execute_model(wrapper, scheduler_output)
        if counter := wrapper.__dict__.get("_moegate_counter"):
            counter.step(scheduler_output)
        return output

    def load_model(wrapper, *args, **kwargs):
        loaded = wrapper.worker.load_model(*args, **kwargs)
        wrapper._moegate_counter = counter_of(wrapper)
        return loaded

    def moegate_experts(wrapper):
        counter = wrapper.__dict__.get("_moegate_counter")
        return counter.take() if counter else None

    WorkerWrapperBase.execute_model = counted_execute_model
    WorkerWrapperBase.load_model = load_model
    WorkerWrapperBase.moegate_experts = moegate_experts


def counter_of(wrapper):
    """Binds a counter to the routers of a worker's model; None: this worker has nothing to tell."""
    from vllm.distributed.parallel_state import get_pp_group, get_tp_group
    from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
    from vllm.platforms import current_platform

    if get_tp_group().rank_in_group or not get_pp_group().is_first_rank:
        return None
    config = wrapper.vllm_config
    if current_platform.is_cpu() and not config.model_config.enforce_eager:
        log.warning("experts are not counted: on a CPU this needs --enforce-eager")
        return None
    layers = [one for one in wrapper.worker.get_model().modules() if isinstance(one, MoERunner)]
    # A monolithic kernel chooses by itself, and its router is never asked.
    routers = [
        layer.router
        for layer in layers
        if isinstance(layer.router, BaseRouter) and not layer._quant_method.is_monolithic
    ]
    if not routers or len(routers) < len(layers):
        log.warning("experts are not counted: %d of %d layers tell", len(routers), len(layers))
        return None
    parallel = config.parallel_config
    ranks = layers[0].moe_config.ep_size if layers[0].moe_config.use_ep else 1
    counter = ExpertCounter(
        layers=len(routers),
        experts=config.model_config.get_num_experts(),
        experts_per_token=routers[0].top_k,
        # With EPLB an expert moves, and has copies.
        expert_ranks=1 if parallel.enable_eplb else ranks,
        round_robin=parallel.expert_placement_strategy == "round_robin",
        engine=parallel.data_parallel_rank,
        device=wrapper.worker.device,
        runner=wrapper.worker.model_runner,
        most_requests=config.scheduler_config.max_num_seqs,
    )
    for layer, router in enumerate(routers):
        _also_capture(router, partial(counter.capture, layer))
    log.info("moegate counts the experts of %d layers", len(routers))
    return counter


def _also_capture(router, capture) -> None:
    """Lets the router call `capture` beside what vLLM itself sets, now or later."""
    set_capture_fn = router.set_capture_fn

    def set_both(capture_fn):
        if capture_fn is None:
            set_capture_fn(capture)
            return

        def both(topk_ids):
            capture_fn(topk_ids)
            capture(topk_ids)

        set_capture_fn(both)

    set_both(router.capture_fn)
    router.set_capture_fn = set_both


class ExpertCounter:
    """The counts of one worker.

    `expert_ranks`: of expert parallelism, 1 without or if unknown. `runner`: vLLM's model runner,
    which knows the order of the requests in a batch; without, no signatures are told.
    """

    def __init__(
        self,
        *,
        layers,
        experts,
        experts_per_token,
        expert_ranks=1,
        round_robin=False,
        engine=0,
        device="cpu",
        runner=None,
        most_requests=0,
    ) -> None:
        import torch

        self._facts = {
            "engine": engine,
            "experts": experts,
            "experts_per_token": experts_per_token,
            "layers": layers,
        }
        self._engine, self._expert_ranks, self._runner = engine, expert_ranks, runner
        integers = partial(torch.zeros, dtype=torch.int64, device=device)
        self._chosen = integers(layers, MOST_TOKENS, experts_per_token)
        self._counts = integers(layers, experts)
        self._one = torch.ones((1, 1), dtype=torch.int64, device=device)
        expert = torch.arange(experts, device=device)
        self._rank_of = expert % expert_ranks if round_robin else _blocks(expert, expert_ranks)
        self._kept = integers(MOST_KEPT, 1 + expert_ranks)
        """Distinct experts, and the choices that fell on each rank; all layers together."""
        self._steps: deque[tuple[float, int, int]] = deque(maxlen=MOST_KEPT)
        """End of the step, tokens, and tokens of prompts among them."""
        self._counted = 0
        self._unknown_layout = False
        self._signatures = Signatures(experts, layers, most_requests, device)

    def capture(self, layer, topk_ids) -> None:
        """Takes a router's choice, of shape (tokens, experts per token). It may be recorded into a
        CUDA graph: only operations on the device, and no branch on data."""
        own = self._own_rows(topk_ids)
        if own is None:
            self._unknown_layout = True
            return
        rows = min(len(own), MOST_TOKENS)
        self._chosen[layer, :rows].copy_(own[:rows])

    def _own_rows(self, topk_ids):
        """The rows of this data-parallel rank's tokens; None: they cannot be told apart."""
        try:
            from vllm.forward_context import get_forward_context

            across = get_forward_context().dp_metadata
        except (ImportError, AssertionError):
            across = None
        if across is None:
            return topk_ids
        tokens = across.num_tokens_across_dp_cpu
        own, rows = int(tokens[self._engine]), len(topk_ids)
        if rows == int(tokens.sum()):  # gathered from all ranks before the routing
            end = int(tokens[: self._engine + 1].sum())
            return topk_ids[end - own : end]
        return topk_ids if rows == own else None

    def step(self, scheduler_output) -> None:
        """Reduces what the routers chose in a step of vLLM."""
        tokens_of = scheduler_output.num_scheduled_tokens
        for request_id in scheduler_output.finished_req_ids:
            self._signatures.end(request_id)
        tokens = scheduler_output.total_num_scheduled_tokens
        if not 0 < tokens <= MOST_TOKENS or self._unknown_layout:
            return
        cached = scheduler_output.scheduled_cached_reqs
        prefills = {one.req_id for one in scheduler_output.scheduled_new_reqs}
        prefills.update(cached.resumed_req_ids)
        prefills.update(
            request_id
            for request_id, outputs in zip(cached.req_ids, cached.num_output_tokens, strict=True)
            if outputs == 0
        )
        self.count(tokens, sum(tokens_of.get(one, 0) for one in prefills))
        order = getattr(getattr(self._runner, "input_batch", None), "req_ids", None)
        if order is not None:
            spans = [(one, tokens_of[one]) for one in order if one in tokens_of]
            if sum(length for _, length in spans) == tokens:
                self._signatures.add(spans, self._chosen[:, :tokens])

    def count(self, tokens, prefill_tokens) -> None:
        """Counts a step of which the choices are in the buffer."""
        chosen = self._chosen[:, :tokens].reshape(len(self._chosen), -1)
        counts = self._counts.zero_()
        counts.scatter_add_(1, chosen, self._one.expand_as(chosen))
        row = self._kept[self._counted % MOST_KEPT]
        row[0] = (counts > 0).sum()
        if self._expert_ranks > 1:
            row[1:] = 0
            row[1:].index_add_(0, self._rank_of, counts.sum(0))
        self._steps.append((time.monotonic(), tokens, prefill_tokens))
        self._counted += 1

    def take(self) -> dict:
        """What is new since the last call: plain numbers and lists. Waits for the device."""
        now_s, layers = time.monotonic(), self._facts["layers"]
        first = self._counted - len(self._steps)
        index = [number % MOST_KEPT for number in range(first, self._counted)]
        kept = self._kept[index].tolist() if index else []
        steps = [
            [
                now_s - at_s,
                tokens,
                prefill_tokens,
                distinct / layers,
                [load / layers for load in loads] if self._expert_ranks > 1 else None,
            ]
            for (at_s, tokens, prefill_tokens), (distinct, *loads) in zip(
                self._steps, kept, strict=True
            )
        ]
        self._steps.clear()
        return {**self._facts, "steps": steps, "signatures": self._signatures.take()}


def _blocks(expert, ranks):
    """The rank of each expert where ranks hold blocks, and the first ones take what is over."""
    each, over = divmod(len(expert), ranks)
    inside = over * (each + 1)
    late = over + (expert - inside).clamp(min=0) // max(1, each)
    return (expert // (each + 1)).where(expert < inside, late)
