"""Which adapters of a server are offered, and what its metrics tell of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.fleet.adapters import AdapterRules, adapter_report, loaded_adapters
from gateway.upstream.openai import wire
from gateway.upstream.vllm.client import ListedModel

GOLDEN = Path(__file__).resolve().parents[2] / "golden/vllm_0_32"
LISTED = {
    "base": ListedModel(4096),
    "alias-of-base": ListedModel(4096),
    "sql-v3": ListedModel(None, "base"),
    "chat": ListedModel(None, "base"),
    "plain": ListedModel(),
}
ONE_RANK = b'vllm:num_requests_running{engine="0",model_name="m"} 1.0\n'
INFO = (
    b'vllm:lora_requests_info{max_lora="2",running_lora_adapters="sql-v3",'
    b'waiting_lora_adapters=""} 1.7954e+09\n'
    b'vllm:lora_requests_info{max_lora="2",running_lora_adapters="chat,sql-v3",'
    b'waiting_lora_adapters="third"} 1.7955e+09\n'
)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (AdapterRules(), set()),
        (AdapterRules(names={"sql-v3": "sql"}), {"sql"}),
        (AdapterRules(names={"gone": "gone", "plain": "plain"}), {"plain"}),
        (AdapterRules(discover=True), {"sql-v3", "chat"}),
        (AdapterRules(names={"sql-v3": "sql"}, discover=True), {"sql", "chat"}),
        (AdapterRules(names={"sql-v3": "chat"}, discover=True), {"chat"}),
        (AdapterRules(discover=True, most=1), {"chat"}),
    ],
)
def test_configured_adapters_and_discovered_ones_are_offered(
    rules: AdapterRules, expected: set[str]
) -> None:
    assert loaded_adapters(LISTED, rules) == expected


def test_absurd_names_are_not_believed() -> None:
    listed = {name: ListedModel(None, "base") for name in ("x" * 257, "", "a\nb", "good")}
    assert loaded_adapters(listed, AdapterRules(discover=True)) == {"good"}


def test_the_newest_sample_tells_what_is_active() -> None:
    rules = AdapterRules(names={"sql-v3": "sql"}, discover=True)
    told = adapter_report("p", frozenset({"sql"}), ONE_RANK + INFO, rules, pinned=False)
    assert told.loaded == {"sql"}
    assert told.active == frozenset({"chat", "sql", "third"})
    assert told.most_active == 2


def test_what_a_real_server_with_two_adapters_lists_and_tells() -> None:
    """Recorded while four requests for the adapters ran, with --max-loras 1."""
    models = wire.decode_models((GOLDEN / "lora_models.json").read_bytes()).data
    listed = {m.id: ListedModel(m.max_model_len, m.parent or "") for m in models}
    rules = AdapterRules(names={"helper": "assistant"}, discover=True)
    assert loaded_adapters(listed, rules) == {"assistant", "other"}
    page = (GOLDEN / "lora_metrics.txt").read_bytes()
    told = adapter_report("p", frozenset(), page, rules, pinned=False)
    assert (told.active, told.most_active) == (frozenset({"other"}), 1)


def test_several_ranks_share_one_metric_so_what_is_active_is_unknown() -> None:
    page = ONE_RANK + ONE_RANK.replace(b'"0"', b'"1"') + INFO
    rules = AdapterRules(discover=True)
    whole = adapter_report("p", frozenset(), page, rules, pinned=False)
    assert (whole.active, whole.most_active) == (None, None)
    rank = adapter_report("p/0", frozenset(), page, rules, pinned=True)
    assert (rank.active, rank.most_active) == (None, 2)


@pytest.mark.parametrize(
    "page", [b"", b'vllm:lora_requests_info{max_lora="none"} 1.0\n', b"vllm:lora_requests_info{} x"]
)
def test_what_a_server_does_not_tell_is_unknown(page: bytes) -> None:
    told = adapter_report("p", frozenset({"x"}), ONE_RANK + page, AdapterRules(), pinned=False)
    assert told.most_active is None
    assert not told.active
