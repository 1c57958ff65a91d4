"""The tiny model with the tags of reasoning that vLLM's parser `qwen3` looks for.

The weights stay. The two youngest words of the vocabulary become `<think>` and `</think>`, and the
template opens the answer with the first one, as those of Qwen3.5 and DeepSeek-R1 do. A random model
does not write the second one: `thinking_token_budget` makes it.
"""

import json
import shutil
from pathlib import Path

FLAGS = ("--reasoning-parser=qwen3",)
TAGS = ("<think>", "</think>")
_OPENED = "<|im_start|>assistant\n"
_TEMPLATE = (
    "<think>\n"
    "{% if enable_thinking is defined and enable_thinking is false %}\n</think>\n\n{% endif %}"
)


def make_thinking_model(plain_dir: Path, target: Path) -> Path:
    """Writes the model to `target`, a new folder; returns it."""
    shutil.copytree(plain_dir, target)
    path = target / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    words = {token_id: word for word, token_id in vocabulary.items()}
    first = len(words) - len(TAGS)
    for token_id, tag in enumerate(TAGS, first):
        del vocabulary[words[token_id]]
        vocabulary[tag] = token_id
        tokenizer["added_tokens"].append(
            {
                **{"id": token_id, "content": tag, "special": False, "normalized": False},
                **{"single_word": False, "lstrip": False, "rstrip": False},
            }
        )
    del tokenizer["model"]["merges"][-len(TAGS) :]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))
    template = target / "chat_template.jinja"
    template.write_text(template.read_text().replace(_OPENED, _OPENED + _TEMPLATE))
    return target
