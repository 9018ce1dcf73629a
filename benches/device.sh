#!/usr/bin/env bash
# Everything that is measured on a device, in one call: every test of tests/devices there, then the table
# (device_table.py): copies, uploads, decoding and kernels, loads from files into the GPU beside those of
# safetensors and runai-model-streamer, and for each required figure whether it is met. Where there is an
# NVIDIA driver, it installs these two and a torch for CUDA from PyPI into .venv-device. On a machine without
# a GPU it prints what Mesa's Vulkan in software gives, and which rows need a device.
#
#   benches/device.sh [--quick] [--rounds N] [--mib N] [--on-cpu]
#
# With BIN=DIR the programs in DIR are run instead of built; it is laid out as target/release is: tenpak,
# examples/device_bench, and the test program `devices` if it is there. With PYTHON=PROGRAM nothing is
# installed: that Python has torch for CUDA, safetensors, runai-model-streamer and numpy.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "benches/device.sh: $*" >&2; exit 1; }

VENV=.venv-device
PACKAGES=(torch==2.11.0 numpy==2.4.6 safetensors==0.8.0 runai-model-streamer==0.17.0)

has_driver() {
    python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL("libcuda.so.1").cuInit(0))' 2>/dev/null
}

install_peers() {
    [ "$(cat "$VENV/.installed" 2>/dev/null)" = "${PACKAGES[*]}" ] && return
    echo "benches/device.sh: installing ${PACKAGES[*]} into $VENV, some 5 GB" >&2
    python3 -m venv --clear "$VENV"
    "$VENV/bin/pip" install -q "${PACKAGES[@]}"
    echo "${PACKAGES[*]}" >"$VENV/.installed"
}

# What makes the model and, where there is a GPU, runs the peers.
python="${PYTHON:-}"
if [ -z "$python" ] && has_driver; then
    install_peers
    python="$VENV/bin/python"
fi

tests=0
if [ -z "${BIN:-}" ]; then
    tests/setup.sh
    cargo build --release --locked --bin tenpak --example device_bench
fi

if [ -z "${TENPAK_NVRTC:-}" ]; then
    # NVRTC as pip installs it, or as the CUDA toolkit does.
    packages="$("${python:-python3}" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    for library in {"$packages","$PWD"/.venv/lib/python3*/site-packages}/nvidia/cu13/lib/libnvrtc.so.13 \
                   /usr/local/cuda/lib64/libnvrtc.so.1[23]; do
        if [ -e "$library" ]; then export TENPAK_NVRTC="$library"; break; fi
    done
fi

# A failed test does not keep the figures back; it is the exit status.
if [ -z "${BIN:-}" ]; then
    cargo test --release --locked --test devices || tests=$?
elif [ -x "$BIN/devices" ]; then
    # Those that need nothing but the program, its fixtures and a device.
    "$BIN/devices" kernels sinks dequant survive delta:: decode::wgsl decode::cuda || tests=$?
fi

for candidate in .venv-bench/bin/python .venv/bin/python python3; do
    [ -n "$python" ] && break
    "$candidate" -c 'import numpy' 2>/dev/null && python="$candidate"
done
[ -n "$python" ] || fail "numpy makes the model; install it, or name a Python that has it: PYTHON=..."
"$python" benches/device_table.py --programs "${BIN:-target/release}" "$@" || exit $?
[ "$tests" = 0 ] || fail "a test of tests/devices failed, see above"
