"""Facts of GPUs, from their data sheets: dense figures, without the doubling by sparsity."""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9
TB = 1e12
TERA = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """One GPU.

    Attributes:
        memory_bytes: HBM that is usable.
        memory_bytes_per_s: HBM bandwidth.
        bf16_flops, fp8_flops, fp4_flops: dense operations per second; a format that the GPU has no
            units for is computed in the next wider one, and has its figure.
        link_bytes_per_s: to the other GPUs of its node, in one direction.
        node_gpus: GPUs that such links join.
        source: where the figures are from.
    """

    name: str
    memory_bytes: float
    memory_bytes_per_s: float
    bf16_flops: float
    fp8_flops: float
    fp4_flops: float
    link_bytes_per_s: float
    node_gpus: int
    source: str

    def flops(self, parameter_bytes: float) -> float:
        """Dense operations per second on weights of so many bytes a parameter.

        Weights of 4 bits are multiplied as such only where the units exist; INT4 weights are
        widened to BF16 first everywhere, which `prior.py` asks for by the width of 2 bytes.
        """
        if parameter_bytes > 1.5:
            return self.bf16_flops
        return self.fp8_flops if parameter_bytes > 0.75 else self.fp4_flops


_HOPPER = {"bf16_flops": 989 * TERA, "fp8_flops": 1979 * TERA, "fp4_flops": 1979 * TERA}

GPUS = {
    gpu.name: gpu
    for gpu in (
        GpuFacts(
            name="H100",
            memory_bytes=80 * GB,
            memory_bytes_per_s=3.35 * TB,
            **_HOPPER,
            link_bytes_per_s=450 * GB,
            node_gpus=8,
            source="NVIDIA H100 data sheet, SXM5 80 GB; NVLink 900 GB/s in both directions",
        ),
        GpuFacts(
            name="H200",
            memory_bytes=141 * GB,
            memory_bytes_per_s=4.8 * TB,
            **_HOPPER,
            link_bytes_per_s=450 * GB,
            node_gpus=8,
            source="NVIDIA H200 data sheet, SXM 141 GB; NVLink 900 GB/s in both directions",
        ),
        GpuFacts(
            name="H800",
            memory_bytes=80 * GB,
            memory_bytes_per_s=3.35 * TB,
            **_HOPPER,
            link_bytes_per_s=200 * GB,
            node_gpus=8,
            source="H100 with NVLink cut to 400 GB/s in both directions (DeepSeek-V3 report, 3.1)",
        ),
        GpuFacts(
            name="B200",
            memory_bytes=180 * GB,
            memory_bytes_per_s=8.0 * TB,
            bf16_flops=2250 * TERA,
            fp8_flops=4500 * TERA,
            fp4_flops=9000 * TERA,
            link_bytes_per_s=900 * GB,
            node_gpus=8,
            source="NVIDIA HGX B200 data sheet, 1,000 W; 180 of 192 GB usable; NVLink 5 1.8 TB/s",
        ),
        GpuFacts(
            name="GB200",
            memory_bytes=186 * GB,
            memory_bytes_per_s=8.0 * TB,
            bf16_flops=2500 * TERA,
            fp8_flops=5000 * TERA,
            fp4_flops=10_000 * TERA,
            link_bytes_per_s=900 * GB,
            node_gpus=72,
            source="NVIDIA GB200 NVL72 data sheet, 1,200 W, per GPU; NVLink 5 joins 72",
        ),
        GpuFacts(
            name="MI300X",
            memory_bytes=192 * GB,
            memory_bytes_per_s=5.3 * TB,
            bf16_flops=1307 * TERA,
            fp8_flops=2615 * TERA,
            fp4_flops=2615 * TERA,
            link_bytes_per_s=448 * GB,
            node_gpus=8,
            source="AMD Instinct MI300X data sheet; 7 Infinity Fabric links of 64 GB/s each way",
        ),
        GpuFacts(
            name="MI355X",
            memory_bytes=288 * GB,
            memory_bytes_per_s=8.0 * TB,
            bf16_flops=2517 * TERA,
            fp8_flops=5033 * TERA,
            fp4_flops=10_066 * TERA,
            link_bytes_per_s=538 * GB,
            node_gpus=8,
            source="AMD Instinct MI355X data sheet; 7 Infinity Fabric links of 76.8 GB/s each way",
        ),
    )
}
"""GPUs by name."""


def find_gpu(name: str) -> GpuFacts | None:
    """The GPU of a name as it is written in configurations: H100-80GB, nvidia-b200, mi300x."""
    parts = name.upper().replace("_", "-").replace(" ", "-").split("-")
    return next((GPUS[part] for part in parts if part in GPUS), None)
