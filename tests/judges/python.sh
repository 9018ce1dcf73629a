#!/usr/bin/env bash
# The Python package against what it stands beside: safetensors' own tests, torch, transformers and the real vLLM.
# vLLM is that of tests/judges/engines.sh, in .venv-tools/vllm; torch and transformers are those of .venv-judges.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() { echo "tests/judges/python.sh: $*" >&2; exit 1; }
[ -x .venv-judges/bin/python ] || fail "no .venv-judges: run tests/judges/setup.sh"
[ -x .venv-tools/vllm/bin/python ] || fail "no .venv-tools/vllm: run tests/judges/engines.sh vllm"

ROOT="$PWD" VERSION=0.8.0 WORK="$PWD/target/judges/python"
mkdir -p "$WORK"
cargo build --release --locked -q -p tenpak-python --features command
export TENPAK_COMMAND="$ROOT/${TENPAK:-target/release/tenpak}" PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH="$WORK/site:$ROOT/python/tests"
.venv-judges/bin/python python/tests/stage.py target/release/lib_tenpak.so "$WORK/site"

# pytest is put over .venv-judges, which stays as it is; maturin is what safetensors' metadata is read with.
if [ ! -e "$WORK/venv/.installed" ]; then
    .venv-judges/bin/python -m venv --clear "$WORK/venv"
    "$WORK/venv/bin/pip" install -q pytest==9.2.0 fsspec==2026.9.0 maturin
    .venv-judges/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$WORK/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/judges.pth"
    touch "$WORK/venv/.installed"
fi
if [ ! -d "$WORK/safetensors-$VERSION" ]; then
    PATH="$WORK/venv/bin:$PATH" "$WORK/venv/bin/pip" download -q --no-deps --no-binary :all: --no-build-isolation \
        -d "$WORK" "safetensors==$VERSION"
    tar -xf "$WORK/safetensors-$VERSION.tar.gz" -C "$WORK"
fi

# What does not apply, and why: python/tests/safetensors_tests.md.
cd "$WORK/safetensors-$VERSION/bindings/python"
"$WORK/venv/bin/python" -m pytest -q -p safetensors_shim tests/test_simple.py tests/test_pread_backend.py \
    tests/test_pt_comparison.py tests/test_pt_model.py tests/test_multithreaded.py tests/test_threadable.py \
    tests/test_handle.py

cd "$ROOT/python"
"$WORK/venv/bin/python" -m pytest -q -p no:cacheprovider -o addopts= tests/torch
cd "$ROOT"
exec .venv-tools/vllm/bin/python tests/judges/python_vllm.py
