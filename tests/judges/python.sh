#!/usr/bin/env bash
# The Python package against what it stands beside: safetensors' own tests, torch, transformers, SGLang and vLLM.
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
PACKAGES=(pytest==9.2.0 fsspec==2026.9.0 ml_dtypes==0.6.0 maturin)
if [ "$(cat "$WORK/venv/.installed" 2>/dev/null)" != "${PACKAGES[*]}" ]; then
    .venv-judges/bin/python -m venv --clear "$WORK/venv"
    "$WORK/venv/bin/pip" install -q "${PACKAGES[@]}"
    .venv-judges/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$WORK/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/judges.pth"
    echo "${PACKAGES[*]}" >"$WORK/venv/.installed"
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
PYTHONSAFEPATH=1 "$WORK/venv/bin/python" -m pytest -q -p no:cacheprovider -o addopts= tests/torch
cd "$ROOT"

# SGLang beside vLLM's torch.
SGLANG=(sglang==0.5.23 orjson IPython traitlets soundfile)
if [ "$(cat "$WORK/sglang-venv/.installed" 2>/dev/null)" != "${SGLANG[*]}" ]; then
    python3 -m venv --clear "$WORK/sglang-venv"
    .venv-tools/vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$WORK/sglang-venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm.pth"
    # Without its dependencies: those name the CUDA build of torch.
    "$WORK/sglang-venv/bin/pip" install -q --no-deps "${SGLANG[@]}"
    echo "${SGLANG[*]}" >"$WORK/sglang-venv/.installed"
fi
"$WORK/sglang-venv/bin/python" tests/judges/python_sglang.py
exec .venv-tools/vllm/bin/python tests/judges/python_vllm.py
