"""Runs the plugin's counter of experts without a server, in vLLM's Python: prints what it tells.

The tests read the JSON; they run in another environment, which has no torch.
"""

import json
from types import SimpleNamespace

import torch
from vllm import forward_context

from moegate.vllm_plugin import experts, signatures
from moegate.vllm_plugin.experts import ExpertCounter


def scheduled(tokens, new=(), outputs=None, finished=(), resumed=()):
    """A step of vLLM's scheduler. `outputs`: tokens that the older requests have put out."""
    outputs = outputs or {}
    return SimpleNamespace(
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=sum(tokens.values()),
        scheduled_new_reqs=[SimpleNamespace(req_id=one) for one in new],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(outputs),
            num_output_tokens=list(outputs.values()),
            resumed_req_ids=set(resumed),
        ),
        finished_req_ids=set(finished),
    )


def counter(**changed):
    """A counter of two layers of 6 experts, of which a token takes 2."""
    runner = SimpleNamespace(input_batch=SimpleNamespace(req_ids=["b-00000002", "a-00000001"]))
    facts = {"layers": 2, "experts": 6, "experts_per_token": 2, "runner": runner}
    return ExpertCounter(**{**facts, "most_requests": 4, **changed})


def choose(one, first, second):
    """What the routers of both layers choose for the tokens."""
    one.capture(0, torch.tensor(first, dtype=torch.int32))
    one.capture(1, torch.tensor(second, dtype=torch.int32))


def steps(told):
    """Without their ages."""
    return [step[1:] for step in told["steps"]]


def run():
    """All cases, by name."""
    found = {}
    one = counter(expert_ranks=4)
    choose(one, [[0, 1], [0, 1], [4, 0]], [[2, 3], [4, 5], [0, 1]])
    one.step(
        scheduled({"a-00000001": 1, "b-00000002": 2}, new=["b-00000002"], outputs={"a-00000001": 3})
    )
    choose(one, [[5, 1]], [[5, 1]])
    one.step(scheduled({"a-00000001": 1}, outputs={"a-00000001": 0}, finished=["b-00000002"]))
    one.step(scheduled({}))
    told = one.take()
    found["steps"], found["facts"] = steps(told), [told["experts"], told["layers"]]
    found["signatures"] = told["signatures"]
    found["again"] = one.take()["steps"]

    one = counter(expert_ranks=3, round_robin=True)
    choose(one, [[0, 3]], [[1, 4]])
    one.count(1, 0)
    found["round robin"] = steps(one.take())

    across = SimpleNamespace(num_tokens_across_dp_cpu=torch.tensor([1, 3]))
    context = SimpleNamespace(dp_metadata=across)
    forward_context.get_forward_context = lambda: context
    gathered = [[0, 1], [2, 3], [2, 3], [2, 4]]
    for name, rows in (("gathered", gathered), ("own", gathered[1:]), ("unknown", gathered[:2])):
        one = counter(engine=1, runner=None)
        choose(one, rows, rows)
        one.step(scheduled({"a": 3}, outputs={"a": 1}))
        found[name] = steps(one.take())
    forward_context.get_forward_context = lambda: SimpleNamespace(dp_metadata=None)

    one = counter(runner=None)
    choose(one, [[0, 1]], [[2, 3]])
    one.step(scheduled({"a": 1}, outputs={"a": 1}))
    found["no runner"] = [steps(one.take()), one.take()["signatures"]]

    one = counter()
    big = torch.zeros((experts.MOST_TOKENS + 1, 2), dtype=torch.int32)
    one.capture(0, big)
    one.step(scheduled({"a": experts.MOST_TOKENS + 1}, outputs={"a": 1}))
    for number in range(experts.MOST_KEPT + 5):
        one.count(1 + number % 2, 0)
    told = steps(one.take())
    found["kept"] = [len(told), told[0][0], told[-1][0]]

    one = counter(most_requests=1)
    for number in range(signatures.MOST_ENDED + 3):
        one._runner.input_batch.req_ids = [f"r{number}-0000000a", "other"]
        choose(one, [[0, 1], [2, 3]], [[0, 1], [2, 3]])
        name = f"r{number}-0000000a"
        one.step(scheduled({name: 1, "other": 1}, outputs={name: 1, "other": 1}))
        one.step(scheduled({}, finished=[name]))
    told = one.take()["signatures"]
    found["ended"] = [len(told), told[-1]]
    return found


print(json.dumps(run()))
