"""Facts of GPUs: memory as CUDA and ROCm report it, the rest from data sheets, dense figures.

Data sheets round memory up or mean 2^30 bytes by GB: an H100 of "80 GB" has 85.0e9 bytes. vLLM
takes its share of what `torch.cuda.mem_get_info` says, some 0.5 GiB less than `nvidia-smi` shows.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypedDict

GB = 1e9
TB = 1e12
TERA = 1e12
GIB = float(1 << 30)


class Architecture(enum.Enum):
    """Families whose kernels are alike, so that one set of the prior's constants holds."""

    HOPPER = "Hopper"
    """Hopper, and those before it."""
    BLACKWELL = "Blackwell"
    CDNA = "CDNA"
    """AMD Instinct."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """One GPU.

    Attributes:
        memory_bytes: what the driver reports to vLLM.
        memory_bytes_per_s: HBM bandwidth.
        bf16_flops, fp8_flops, fp4_flops: dense operations per second; a format that the GPU has no
            units for is computed in the next wider one, and has its figure.
        link_bytes_per_s: to the other GPUs of its node, in one direction; PCIe where they have no
            other link.
        node_gpus: GPUs that such links join.
        source: where the figures are from.
        architecture: its family.
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
    architecture: Architecture = Architecture.HOPPER

    def flops(self, parameter_bytes: float) -> float:
        """Dense operations per second on weights of so many bytes a parameter.

        Weights of 4 bits are multiplied as such only where the units exist; INT4 weights are
        widened to BF16 first everywhere, which `prior.py` asks for by the width of 2 bytes.
        """
        if parameter_bytes > 1.5:
            return self.bf16_flops
        return self.fp8_flops if parameter_bytes > 0.75 else self.fp4_flops


class _Flops(TypedDict):
    bf16_flops: float
    fp8_flops: float
    fp4_flops: float


_AMPERE: _Flops = {"bf16_flops": 312 * TERA, "fp8_flops": 312 * TERA, "fp4_flops": 312 * TERA}
_H20: _Flops = {"bf16_flops": 148 * TERA, "fp8_flops": 296 * TERA, "fp4_flops": 296 * TERA}
_HOPPER: _Flops = {"bf16_flops": 989 * TERA, "fp8_flops": 1979 * TERA, "fp4_flops": 1979 * TERA}

GPUS = {
    gpu.name: gpu
    for gpu in (
        GpuFacts(
            name="H100",
            memory_bytes=79.2 * GIB,
            memory_bytes_per_s=3.35 * TB,
            **_HOPPER,
            link_bytes_per_s=450 * GB,
            node_gpus=8,
            source="NVIDIA H100 data sheet, SXM5 80 GB; NVLink 900 GB/s in both directions",
        ),
        GpuFacts(
            name="H200",
            memory_bytes=139.8 * GIB,
            memory_bytes_per_s=4.8 * TB,
            **_HOPPER,
            link_bytes_per_s=450 * GB,
            node_gpus=8,
            source="NVIDIA H200 data sheet, SXM 141 GB; NVLink 900 GB/s in both directions",
        ),
        GpuFacts(
            name="H800",
            memory_bytes=79.2 * GIB,
            memory_bytes_per_s=3.35 * TB,
            **_HOPPER,
            link_bytes_per_s=200 * GB,
            node_gpus=8,
            source="H100 with NVLink cut to 400 GB/s in both directions (DeepSeek-V3 report, 3.1)",
        ),
        GpuFacts(
            name="B200",
            memory_bytes=178.4 * GIB,
            memory_bytes_per_s=8.0 * TB,
            bf16_flops=2250 * TERA,
            fp8_flops=4500 * TERA,
            fp4_flops=9000 * TERA,
            link_bytes_per_s=900 * GB,
            node_gpus=8,
            source="NVIDIA HGX B200 data sheet, 1,000 W; memory of PyTorch logs; NVLink 5 1.8 TB/s",
            architecture=Architecture.BLACKWELL,
        ),
        GpuFacts(
            name="GB200",
            memory_bytes=184.3 * GIB,
            memory_bytes_per_s=8.0 * TB,
            bf16_flops=2500 * TERA,
            fp8_flops=5000 * TERA,
            fp4_flops=10_000 * TERA,
            link_bytes_per_s=900 * GB,
            node_gpus=72,
            source="NVIDIA GB200 NVL72 data sheet, 1,200 W, per GPU; NVLink 5 joins 72",
            architecture=Architecture.BLACKWELL,
        ),
        GpuFacts(
            name="MI300X",
            memory_bytes=191.7 * GIB,
            memory_bytes_per_s=5.3 * TB,
            bf16_flops=1307 * TERA,
            fp8_flops=2615 * TERA,
            fp4_flops=2615 * TERA,
            link_bytes_per_s=448 * GB,
            node_gpus=8,
            source="AMD Instinct MI300X data sheet; 7 Infinity Fabric links of 64 GB/s each way",
            architecture=Architecture.CDNA,
        ),
        GpuFacts(
            name="MI355X",
            memory_bytes=287.7 * GIB,
            memory_bytes_per_s=8.0 * TB,
            bf16_flops=2517 * TERA,
            fp8_flops=5033 * TERA,
            fp4_flops=10_066 * TERA,
            link_bytes_per_s=538 * GB,
            node_gpus=8,
            source="AMD Instinct MI355X data sheet; 7 Infinity Fabric links of 76.8 GB/s each way",
            architecture=Architecture.CDNA,
        ),
        GpuFacts(
            name="H100-NVL",
            memory_bytes=93.0 * GIB,
            memory_bytes_per_s=3.9 * TB,
            bf16_flops=835 * TERA,
            fp8_flops=1671 * TERA,
            fp4_flops=1671 * TERA,
            link_bytes_per_s=64 * GB,
            node_gpus=8,
            source="NVIDIA H100 NVL data sheet, 94 GB; PCIe 5, NVLink joins pairs only",
        ),
        GpuFacts(
            name="H20",
            memory_bytes=95.1 * GIB,
            memory_bytes_per_s=4.0 * TB,
            **_H20,
            link_bytes_per_s=450 * GB,
            node_gpus=8,
            source="NVIDIA H20, 96 GB, as resellers list it; NVLink 900 GB/s in both directions",
        ),
        GpuFacts(
            name="H20-3E",
            memory_bytes=139.8 * GIB,
            memory_bytes_per_s=4.8 * TB,
            **_H20,
            link_bytes_per_s=450 * GB,
            node_gpus=8,
            source="H20 with 141 GB of HBM3e",
        ),
        GpuFacts(
            name="A100",
            memory_bytes=79.2 * GIB,
            memory_bytes_per_s=2.039 * TB,
            **_AMPERE,
            link_bytes_per_s=300 * GB,
            node_gpus=8,
            source="NVIDIA A100 data sheet, SXM4 80 GB; NVLink 600 GB/s in both directions; no FP8",
        ),
        GpuFacts(
            name="A100-40GB",
            memory_bytes=39.4 * GIB,
            memory_bytes_per_s=1.555 * TB,
            **_AMPERE,
            link_bytes_per_s=300 * GB,
            node_gpus=8,
            source="NVIDIA A100 data sheet, SXM4 40 GB",
        ),
        GpuFacts(
            name="A800",
            memory_bytes=79.2 * GIB,
            memory_bytes_per_s=2.039 * TB,
            **_AMPERE,
            link_bytes_per_s=200 * GB,
            node_gpus=8,
            source="A100 80 GB with NVLink cut to 400 GB/s in both directions",
        ),
        GpuFacts(
            name="L40S",
            memory_bytes=44.4 * GIB,
            memory_bytes_per_s=0.864 * TB,
            bf16_flops=362 * TERA,
            fp8_flops=733 * TERA,
            fp4_flops=733 * TERA,
            link_bytes_per_s=32 * GB,
            node_gpus=8,
            source="NVIDIA L40S data sheet, 48 GB with error correction on; PCIe 4",
        ),
        GpuFacts(
            name="RTX-PRO-6000",
            memory_bytes=94.9 * GIB,
            memory_bytes_per_s=1.597 * TB,
            bf16_flops=500 * TERA,
            fp8_flops=1000 * TERA,
            fp4_flops=2000 * TERA,
            link_bytes_per_s=64 * GB,
            node_gpus=8,
            source="NVIDIA RTX PRO 6000 Blackwell Server Edition data sheet, 96 GB; PCIe 5",
            architecture=Architecture.BLACKWELL,
        ),
        GpuFacts(
            name="B300",
            memory_bytes=267.7 * GIB,
            memory_bytes_per_s=8.0 * TB,
            bf16_flops=2250 * TERA,
            fp8_flops=4500 * TERA,
            fp4_flops=13_500 * TERA,
            link_bytes_per_s=900 * GB,
            node_gpus=8,
            source="NVIDIA HGX B300 data sheet; memory of nvidia-smi recalled",
            architecture=Architecture.BLACKWELL,
        ),
        GpuFacts(
            name="GB300",
            memory_bytes=276.7 * GIB,
            memory_bytes_per_s=8.0 * TB,
            bf16_flops=2500 * TERA,
            fp8_flops=5000 * TERA,
            fp4_flops=15_000 * TERA,
            link_bytes_per_s=900 * GB,
            node_gpus=72,
            source="NVIDIA GB300 NVL72 data sheet, per GPU; memory of nvidia-smi recalled",
            architecture=Architecture.BLACKWELL,
        ),
        GpuFacts(
            name="MI325X",
            memory_bytes=255.7 * GIB,
            memory_bytes_per_s=6.0 * TB,
            bf16_flops=1307 * TERA,
            fp8_flops=2615 * TERA,
            fp4_flops=2615 * TERA,
            link_bytes_per_s=448 * GB,
            node_gpus=8,
            source="AMD Instinct MI325X data sheet, 256 GB; links as MI300X",
            architecture=Architecture.CDNA,
        ),
    )
}
"""GPUs by name."""


def find_gpu(name: str) -> GpuFacts | None:
    """The GPU of a name as configurations and drivers write it.

    H100-80GB, nvidia-b200, NVIDIA A100-SXM4-40GB, RTX PRO 6000 Blackwell, AMD Instinct MI300X: the
    most specific GPU all of whose parts the name has.
    """
    parts = set(name.upper().replace("_", "-").replace(" ", "-").split("-"))
    found = [known for known in GPUS if parts.issuperset(known.split("-"))]
    return GPUS[max(found, key=lambda known: known.count("-"))] if found else None
