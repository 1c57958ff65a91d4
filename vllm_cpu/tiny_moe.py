"""Build a tiny random-weight Qwen3-MoE checkpoint that vLLM serves: `python tiny_moe.py OUT_DIR`.

`--router-skew S` favours some experts, as trained routers do; 0, the default, favours none.

Runs in vLLM's own environment (torch, transformers, tokenizers); the gateway never imports it.
Corpus, merges and weights follow from the constants below alone: two builds with the same package
versions give the same bytes. `fingerprint.json` in OUT_DIR records those inputs, and a build that
finds its own fingerprint there does nothing.
"""

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Qwen3MoeForCausalLM

SEED = 20260
VOCAB_SIZE = 2048
CORPUS_LINES = 20_000
MAX_POSITIONS = 32_768
EXPERTS, EXPERTS_PER_TOKEN, EXPERT_WIDTH = 16, 4, 64
LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_WIDTH = 2, 128, 4, 2, 32

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"  # ids 0, 1, 2
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# fmt: off
ONSETS = ["b", "br", "ch", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n",
          "p", "pl", "qu", "r", "s", "st", "t", "th", "tr", "v", "w", "z"]
NUCLEI = ["a", "ai", "e", "ea", "i", "ie", "o", "oo", "ou", "u"]
CODAS = ["", "l", "ll", "n", "nd", "r", "rn", "s", "st"]
OTHER_SCRIPTS = ["naïve café", "größer", "mañana", "привет мир", "你好世界", "東京タワー", "🙂🚀",
                 "→ ≤ ∑", "¿qué?"]
# fmt: on


def synthetic_corpus(lines: int) -> list[str]:
    """Made-up prose, numbers, JSON, code and non-Latin snippets: every kind of BPE merge."""
    rng = random.Random(SEED)

    def word() -> str:
        syllables = rng.choices((1, 2, 3), weights=(5, 4, 1))[0]
        return "".join(
            rng.choice(ONSETS) + rng.choice(NUCLEI) + rng.choice(CODAS) for _ in range(syllables)
        )

    words = [word() for _ in range(3_000)]
    weights = [1.0 / rank for rank in range(1, len(words) + 1)]  # Zipf, as in natural text

    def phrase(count: int) -> str:
        return " ".join(rng.choices(words, weights=weights, k=count))

    corpus = []
    for _ in range(lines):
        match rng.randrange(10):
            case 0:
                corpus.append(
                    json.dumps(
                        {phrase(1): phrase(2), "n": rng.randrange(10_000), "ok": rng.random() < 0.5}
                    )
                )
            case 1:
                head = f"def {phrase(1)}_{phrase(1)}(x: int) -> int:"
                corpus.append(f"{head}\n    return x * {rng.randrange(100)}\n")
            case 2:
                corpus.append(f"{rng.choice(OTHER_SCRIPTS)} {phrase(3)} {rng.random():.4f}")
            case _:
                corpus.append(f"{phrase(rng.randrange(4, 16)).capitalize()}{rng.choice('.!?')}")
    return corpus


def write_tokenizer(target: Path) -> None:
    """Train a byte-level BPE of exactly VOCAB_SIZE entries and save it with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(synthetic_corpus(CORPUS_LINES), trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise RuntimeError(f"the corpus gave {tokenizer.get_vocab_size()} tokens, not {VOCAB_SIZE}")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=MAX_POSITIONS
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(target)


def skew_routers(model: "Qwen3MoeForCausalLM", router_skew: float) -> None:
    """Adds to each router's logits a bias that falls with the logarithm of the expert's rank; the
    order of the experts differs by layer.

    Routers have no bias. One hidden channel therefore is the same for every token: the embeddings
    set it, no layer writes to it, and the routers alone read it.
    """
    import torch

    generator = torch.Generator().manual_seed(SEED)
    decoder = model.model
    with torch.no_grad():
        decoder.embed_tokens.weight[:, 0] = 1.0
        for layer in decoder.layers:
            for reader in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                reader.weight[:, 0] = 0.0
            layer.self_attn.o_proj.weight[0] = 0.0
            experts = layer.mlp.experts
            experts.gate_up_proj[..., 0] = 0.0
            experts.down_proj[:, 0] = 0.0
            # The norm makes the channel as large for every token as for the mean one.
            layer.post_attention_layernorm.weight[0] = 1.0
            ranks = torch.arange(1, EXPERTS + 1, dtype=torch.float32)
            order = torch.randperm(EXPERTS, generator=generator)
            layer.mlp.gate.weight[order, 0] = -router_skew * torch.log(ranks)
        model.lm_head.weight[:, 0] = 0.0


def write_weights(target: Path, router_skew: float) -> None:
    """Random-init a Qwen3-MoE causal language model and save it as bfloat16 safetensors."""
    import torch
    from transformers import GenerationConfig, Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=VOCAB_SIZE,
        num_hidden_layers=LAYERS,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        moe_intermediate_size=EXPERT_WIDTH,
        num_experts=EXPERTS,
        num_experts_per_tok=EXPERTS_PER_TOKEN,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_WIDTH,
        initializer_range=0.2,  # 10x the default: logits far enough apart that greedy ties are rare
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(SEED)
    model = Qwen3MoeForCausalLM(config)
    if router_skew:
        skew_routers(model, router_skew)
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0)
    model.save_pretrained(target, safe_serialization=True)


def fingerprint(router_skew: float) -> dict[str, str]:
    """What the bytes depend on: this file, the packages that write them, and the skew."""
    packages = {name: version(name) for name in ("tokenizers", "torch", "transformers")}
    script = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return {"script": script, "router_skew": str(router_skew), **packages}


def build(out_dir: Path, router_skew: float) -> bool:
    """Write the checkpoint to `out_dir`, atomically; False if it was there already."""
    stamp = out_dir / "fingerprint.json"
    wanted = fingerprint(router_skew)
    if stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return False
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    try:
        write_tokenizer(scratch)
        write_weights(scratch, router_skew)
        (scratch / stamp.name).write_text(json.dumps(wanted, indent=1) + "\n")
        scratch.chmod(0o755)  # mkdtemp makes it private
        if out_dir.exists():
            shutil.rmtree(out_dir)
        scratch.rename(out_dir)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Build a tiny random-weight Qwen3-MoE checkpoint.")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--router-skew", type=float, default=0.0)
    args = parser.parse_args()
    out_dir = args.out_dir.absolute()
    built = build(out_dir, args.router_skew)
    digest = hashlib.sha256((out_dir / "model.safetensors").read_bytes()).hexdigest()
    print(
        f"{'built' if built else 'up to date'}: {out_dir} (model.safetensors sha256 {digest[:16]})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
