"""Record tests/golden/vllm_0_32_pooling/ anew: `python -m tests.vllm.record_pooling_golden`, some
two minutes.

What vLLM answers to requests for vectors and scores, with a model that embeds and one that scores.
"""

import tempfile
from pathlib import Path
from typing import Any

from tests.vllm.launch import (
    EMBEDDING_FLAGS,
    MODEL_NAME,
    REPOSITORY,
    SCORING_FLAGS,
    running_vllm,
)
from tests.vllm.record_golden import OVERFLOW_PROMPT, Recording, chat, record

GOLDEN = REPOSITORY / "tests" / "golden" / "vllm_0_32_pooling"
EMBEDDINGS, SCORE, RERANK = "/v1/embeddings", "/score", "/rerank"
QUERY, FOX, PARIS = "what is a fox", "a fox is an animal", "the capital is Paris"


def embedding(given: object, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL_NAME, "input": given, **fields}


def score(one: object = QUERY, other: object = (FOX, PARIS), **fields: Any) -> dict[str, Any]:
    return {"model": MODEL_NAME, "text_1": one, "text_2": other, **fields}


def rerank(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL_NAME, "query": QUERY, "documents": [PARIS, FOX], **fields}


EMBED_RECORDINGS = (
    Recording("embeddings.json", EMBEDDINGS, "Vectors as numbers.", embedding([FOX, PARIS])),
    Recording(
        "embeddings_base64.json",
        EMBEDDINGS,
        "The same in base64: float32, little-endian.",
        embedding([FOX, PARIS], encoding_format="base64"),
    ),
    Recording(
        "embeddings_tokens.json",
        EMBEDDINGS,
        "Inputs of token ids.",
        embedding([[300, 301, 302], [303]], encoding_format="base64"),
    ),
    Recording(
        "embeddings_truncated.json",
        EMBEDDINGS,
        "An input that is cut: the usage counts what is left.",
        embedding(OVERFLOW_PROMPT, encoding_format="base64", truncate_prompt_tokens=16),
    ),
    Recording("score.json", SCORE, "The cosine of both vectors.", score()),
    Recording("rerank.json", RERANK, "The same, best first.", rerank()),
    Recording("rerank_top.json", RERANK, "Only the best.", rerank(top_n=1)),
    Recording("error_dimensions.json", EMBEDDINGS, "Not shortened.", embedding(FOX, dimensions=8)),
    Recording("error_empty.json", EMBEDDINGS, "An empty text.", embedding("")),
    Recording("error_none.json", EMBEDDINGS, "No text.", embedding([])),
    Recording("error_token.json", EMBEDDINGS, "No such token.", embedding([[99_999_999]])),
    Recording("error_too_long.json", EMBEDDINGS, "Too long.", embedding([FOX, OVERFLOW_PROMPT])),
    Recording(
        "error_too_long_tokens.json", EMBEDDINGS, "Token ids too long.", embedding([[5] * 9000])
    ),
    Recording(
        "error_truncation.json",
        EMBEDDINGS,
        "Cut to more than the context.",
        embedding(FOX, truncate_prompt_tokens=100_000),
    ),
    Recording(
        "error_unknown_model.json",
        EMBEDDINGS,
        "Another model.",
        embedding(FOX) | {"model": "no-such-model"},
    ),
    Recording(
        "error_lengths.json", SCORE, "Two against three.", score([FOX, PARIS], [FOX, PARIS, QUERY])
    ),
    Recording("error_no_route.json", "/v1/chat/completions", "It does not generate.", chat()),
    Recording("metrics.txt", "/metrics", "After these requests."),
)
SCORING_RECORDINGS = (
    Recording("pair_score.json", SCORE, "A score of each pair.", score()),
    Recording("pair_rerank.json", RERANK, "The same, best first.", rerank()),
    Recording(
        "pair_score_truncated.json", SCORE, "Pairs that are cut.", score(truncate_prompt_tokens=8)
    ),
    Recording("error_pair_no_route.json", EMBEDDINGS, "It makes no vectors.", embedding(FOX)),
)


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    sections = [(Path(__file__).parent / "pooling_golden_readme.md").read_text()]
    with tempfile.TemporaryDirectory(prefix="moegate-golden-") as folder:
        with running_vllm(Path(folder), pooling=EMBEDDING_FLAGS) as server:
            sections += record(server, EMBED_RECORDINGS, GOLDEN)
        with running_vllm(Path(folder), pooling=SCORING_FLAGS) as server:
            sections += record(server, SCORING_RECORDINGS, GOLDEN)
    (GOLDEN / "README.md").write_text("\n".join(sections))


if __name__ == "__main__":
    main()
