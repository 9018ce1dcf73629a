#!/usr/bin/env bash
# `tenpak serve --engine vllm` with the real vLLM, on the processor (tests/judges/serve.py). vLLM is that of
# tests/judges/engines.sh, in .venv-tools/vllm.
set -euo pipefail
cd "$(dirname "$0")/../.."

export TENPAK=${TENPAK:-target/release/tenpak}
fail() { echo "tests/judges/serve.sh: $*" >&2; exit 1; }
[ -x "$TENPAK" ] || fail "$TENPAK is missing: cargo build, or set TENPAK"
[ -x .venv-tools/vllm/bin/python ] || fail "no .venv-tools/vllm: run tests/judges/engines.sh vllm"
exec .venv-tools/vllm/bin/python tests/judges/serve.py
