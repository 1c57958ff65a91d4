"""Bytes per parameter, from the quantisation part of a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simulation.catalog.facts import BF16_BYTES
from simulation.catalog.hf_fields import Config, UnreadableConfig

_DTYPES = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0, "float8_e4m3fn": 1.0}
MXFP4_BYTES = (4 + 8 / 32) / 8
"""4 bits, and a scale of 8 bits per 32."""
NVFP4_BYTES = (4 + 8 / 16) / 8
"""4 bits, and a scale of 8 bits per 16."""
SCALE_BITS = 16
DEFAULT_GROUP = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Bytes per parameter, scales included; see `ModelFacts`."""

    experts: float
    others: float
    widened_experts: bool = False


def weight_widths(whole: Config, part: Config) -> Widths:
    """Widths of the routed experts and of the other layers. Raises UnreadableConfig.

    A format of 4 bits is taken for the experts only: that is how MoE models are published, and the
    experts are 90 to 99 % of the weights.
    """
    quantized = part.part("quantization_config") or whole.part("quantization_config")
    width = _dtype_bytes(whole, part)
    if quantized is None:
        return Widths(experts=width, others=width)
    method = str(quantized.get("quant_method", "")).lower()
    algorithm = str(quantized.get("quant_algo", "")).upper()
    if "FP4" in algorithm:
        return Widths(experts=NVFP4_BYTES, others=width)
    if method == "mxfp4":
        return Widths(experts=MXFP4_BYTES, others=width)
    if method in ("fp8", "fbgemm_fp8") or algorithm == "FP8":
        return Widths(experts=1.0, others=1.0)
    bits, group = _bits_and_group(quantized)
    if bits is None:
        raise UnreadableConfig(
            f"quantization_config: method {method or algorithm!r} without its bits is not known"
        )
    if bits >= 8:
        return Widths(experts=bits / 8, others=bits / 8)
    return Widths(experts=(bits + SCALE_BITS / group) / 8, others=width, widened_experts=True)


def _dtype_bytes(whole: Config, part: Config) -> float:
    for config in (part, whole):
        for field in ("dtype", "torch_dtype"):
            name = config.get(field)
            if isinstance(name, str):
                known = _DTYPES.get(name.removeprefix("torch."))
                if known is None:
                    raise UnreadableConfig(f"{field}: {name!r} is none of {', '.join(_DTYPES)}")
                return known
    return BF16_BYTES


def _bits_and_group(quantized: Config) -> tuple[int | None, int]:
    """Of GPTQ and AWQ (`bits`), and of compressed-tensors (the weights of its first group)."""
    bits = quantized.optional("bits", "w_bit")
    group = quantized.optional("group_size", "q_group_size")
    groups = quantized.get("config_groups")
    if bits is None and isinstance(groups, Mapping):
        for settings in groups.values():
            weights = settings.get("weights") if isinstance(settings, Mapping) else None
            if isinstance(weights, Mapping):
                bits = Config(weights).optional("num_bits")
                group = Config(weights).optional("group_size")
                break
    return bits, group or DEFAULT_GROUP
