"""What the order of a job's items is worth: arrival order against prefix and similarity, by the
sketch of texts alone and by the experts that earlier items were routed to.

A model's experts have domains: a token of a domain takes the experts of that domain more often. A
step computes a batch of sequences, and its time grows with the distinct experts that they touch
(`scheduler.step_time.step_model`), prompts with what the prefix cache does not have. The items of a
job come from several domains and system prompts, shuffled; `--shared` is the part of their words
that all domains have in common. An earlier job of other texts has ended, and of `LEARNT` of its
items the engine has told the experts, as the plugin `moegate-vllm` does. The truth of each item is
drawn once, so that only the order differs.

    python -m benchmarks.batch.order --items 4000 --shared 0.5
"""

from __future__ import annotations

import argparse
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moegate.vllm_plugin.signatures import MOST_EXPERTS, MOST_LAYERS
from scheduler.prefix.expert_affinity import ExpertAffinity, ExpertTable, rows_of
from scheduler.prefix.item_order import order_items
from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel

WORDS = 400
"""Words of a domain."""
TEXT_WORDS = 150
SYSTEM_BYTES = 1600
BYTES_PER_TOKEN = 4
HOT_SHARE = 0.25
"""Part of the experts that a domain prefers."""
HOT_CHANCE = 0.8
"""Chance that a choice of a token falls on these."""
OUTPUT_TOKENS = 100
CACHED_PREFIXES = 2
"""System prompts that stay in the prefix cache beside the running sequences."""
LEARNT = 200
"""Items of an earlier job whose experts are known."""
ORDERS = ("arrival", "sketch", "experts")


@dataclass(frozen=True, slots=True)
class Item:
    """One request: the domain of its text and its system prompt."""

    domain: int
    system: int
    beginning: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """Figures of one order."""

    distinct_experts: float
    """Mean of the steps, per layer."""
    total_s: float
    prefix_hits: float
    """Share of the items that found their system prompt in the cache."""


def job(count: int, domains: int, systems: int, shared: float, seed: int) -> list[Item]:
    """Items of a job, shuffled. `shared`: part of the words that all domains have in common."""
    chance = random.Random(seed)
    common = [f"all{number}" for number in range(WORDS)]
    words = [[f"{domain}w{number}" for number in range(WORDS)] for domain in range(domains)]
    prompts = [f"You are assistant {n}. ".encode() * 80 for n in range(systems)]
    made = []
    for _ in range(count):
        domain, system = chance.randrange(domains), chance.randrange(systems)
        text = " ".join(
            chance.choice(common if chance.random() < shared else words[domain])
            for _ in range(TEXT_WORDS)
        )
        made.append(Item(domain, system, prompts[system][:SYSTEM_BYTES] + text.encode()))
    return made


def chances(model: StepModel, domains: int, seed: int) -> npt.NDArray[np.float64]:
    """p_e of a token of each domain, shape (domains, experts); each sums to k."""
    rng = np.random.default_rng(seed)
    hot = round(HOT_SHARE * model.experts)
    found = np.full(
        (domains, model.experts),
        model.experts_per_token * (1.0 - HOT_CHANCE) / (model.experts - hot),
    )
    for domain in range(domains):
        chosen = rng.choice(model.experts, hot, replace=False)
        found[domain, chosen] = model.experts_per_token * HOT_CHANCE / hot
    return found


def learnt(items: Sequence[Item], p: npt.NDArray[np.float64], seed: int) -> ExpertTable | None:
    """What the experts of finished items show: of each as many choices as its answer has, drawn in
    each layer, of which the engine tells the experts that were used most."""
    rng = np.random.default_rng(seed)
    affinity = ExpertAffinity()
    for item in items:
        chances_of = p[item.domain] / p[item.domain].sum()
        choices = round(OUTPUT_TOKENS * p[item.domain].sum())
        layers = [
            np.argsort(-rng.multinomial(choices, chances_of))[:MOST_EXPERTS].tolist()
            for _ in range(MOST_LAYERS)
        ]
        affinity.observe(rows_of(item.beginning), layers)
    return affinity.table()


def run(
    items: Sequence[Item],
    order: Sequence[int],
    batch: int,
    model: StepModel,
    p: npt.NDArray[np.float64],
) -> Ran:
    """Runs items in an order, `batch` at a time; each that ends makes room for the next one."""
    untouched_log = np.log1p(-np.minimum(p, 0.98))
    waiting = list(reversed(order))
    # Answers have lengths of their own, so that sequences begin and end one by one.
    lengths = np.random.default_rng(5).poisson(OUTPUT_TOKENS, len(items)) + 1
    running: list[tuple[int, int]] = []
    cache: OrderedDict[int, None] = OrderedDict()
    steps, distinct, total_s, hits = 0, 0.0, 0.0, 0
    while waiting or running:
        while waiting and len(running) < batch:
            index = waiting.pop()
            item = items[index]
            resident = {items[each].system for each, _ in running} | set(cache)
            hit = item.system in resident
            hits += hit
            cache[item.system] = None
            cache.move_to_end(item.system)
            while len(cache) > CACHED_PREFIXES:
                cache.popitem(last=False)
            tokens = len(item.beginning) // BYTES_PER_TOKEN
            uncached = tokens - hit * (SYSTEM_BYTES // BYTES_PER_TOKEN)
            total_s += model.prefill_time_s(uncached, tokens)
            running.append((index, int(lengths[index])))
        counts = np.bincount([items[each].domain for each, _ in running], minlength=len(p))
        touched = float((1.0 - np.exp(counts @ untouched_log)).sum())
        # Runs until the first of them ends: until then every step is alike.
        length = min(left for _, left in running)
        step_s = model.base_s + model.expert_s * touched + model.sequence_s * len(running)
        steps += length
        distinct += length * touched
        total_s += length * step_s
        running = [(each, left - length) for each, left in running if left > length]
    return Ran(distinct_experts=distinct / steps, total_s=total_s, prefix_hits=hits / len(items))


def compare(
    count: int, batch: int, domains: int, systems: int, seed: int, shared: float = 0.0
) -> list[Ran]:
    """Returns the figures of each of `ORDERS`."""
    items = job(count, domains, systems, shared, seed)
    model = QWEN3_30B_H100
    p = chances(model, domains, seed)
    beginnings = [item.beginning for item in items]
    table = learnt(job(LEARNT, domains, systems, shared, seed + 1), p, seed)
    orders = (range(count), order_items(beginnings), order_items(beginnings, table))
    return [run(items, order, batch, model, p) for order in orders]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--domains", type=int, default=8)
    parser.add_argument("--systems", type=int, default=12)
    parser.add_argument("--shared", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print("batch  order     distinct experts  total s  prefix hits")
    for batch in (8, 16, 32, 64):
        found = compare(args.items, batch, args.domains, args.systems, args.seed, args.shared)
        for name, ran in zip(ORDERS, found, strict=True):
            print(
                f"{batch:5}  {name:8}  {ran.distinct_experts:16.1f}  {ran.total_s:7.0f}"
                f"  {ran.prefix_hits:10.1%}"
            )


if __name__ == "__main__":
    main()
