#!/usr/bin/env bash
# Everything that is measured on a device, in one call: every test of tests/devices there, then the
# table of copies, uploads and kernels (examples/device_bench.rs). On a machine without a GPU it prints
# what Mesa's Vulkan in software gives, and which rows need a device.
#
#   benches/device.sh [cuda|wgpu|host]... [--mib N] [--json]
#
# With BIN=DIR the programs in DIR are run instead of built: device_bench, and the test programs
# `devices` and `quant` if they are there.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${TENPAK_NVRTC:-}" ]; then
    # NVRTC as pip installs it, or as the CUDA toolkit does.
    for library in "$PWD"/.venv/lib/python3*/site-packages/nvidia/cu13/lib/libnvrtc.so.13 \
                   /usr/local/cuda/lib64/libnvrtc.so.1[23]; do
        if [ -e "$library" ]; then export TENPAK_NVRTC="$library"; break; fi
    done
fi

if [ -n "${BIN:-}" ]; then
    if [ -x "$BIN/devices" ]; then
        # Those that need nothing but the program, its fixtures and a device.
        "$BIN/devices" kernels sinks dequant survive delta:: decode::wgsl decode::cuda
    fi
    exec "$BIN/device_bench" "$@"
fi
tests/setup.sh
cargo test --release --locked --test devices
cargo run --release --locked --example device_bench -- "$@"
