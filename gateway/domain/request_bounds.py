"""Bounds on the fields of a request, whatever door it came to. Each door names the fields in its
own words."""

from __future__ import annotations

import math
import re

MAX_CHOICES = 16
MAX_LOGPROBS = 20
MAX_ID_BYTES = 128
MAX_MODEL_CHARS = 256
"""Same limit as for model names in the configuration. A longer name would not fit into the error
response that rejects it."""
MAX_STOP_BYTES = 1024
MAX_LOGIT_BIASES = 300
"""Same limit as OpenAI's."""
MAX_LOGIT_BIAS = 100
MAX_STOP_TOKEN_IDS = 128
MAX_TOKEN_ID = 2**31 - 1
"""Largest token id of an engine: no vocabulary is as large. The engine refuses others itself."""
MAX_NANO_USD = 2**62
"""Bound of sums of money: half of what a 64-bit integer holds, so that two add up."""
SAMPLING_BOUNDS = {
    "temperature": (0.0, 2.0),
    "top_p": (math.ulp(0.0), 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    # An engine divides logits by it, in 32 bits: a smaller one becomes 0 there, and the logits NaN.
    "repetition_penalty": (0.01, 100.0),
}
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")


def bounds_text(name: str) -> str:
    """The bounds of a sampling parameter, for a person."""
    least, most = SAMPLING_BOUNDS[name]
    lower = "above 0" if least == math.ulp(0.0) else f"{least:g}"
    return f"give {lower} to {most:g}"
