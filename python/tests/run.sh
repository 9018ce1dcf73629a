#!/usr/bin/env bash
# Builds the Python package as it is and runs its tests in an environment of their own (.venv-python).
# PYTHON names another interpreter's environment to run them in; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."

PACKAGES=(
    fsspec==2026.9.0 huggingface_hub==2.4.0 ml_dtypes==0.6.0 mypy==2.4.1 numpy==2.4.6 pytest==9.2.0
    safetensors==0.8.0 tqdm==4.70.1 types-tqdm==4.70.0.20261106
)
VENV=.venv-python
STAMP="$VENV/.installed"

if [ -z "${PYTHON:-}" ]; then
    want="$(sha256sum <python/tests/run.sh)"
    if [ "$(cat "$STAMP" 2>/dev/null)" != "$want" ]; then
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
        python3 -m venv --clear "$VENV"
        "$VENV/bin/pip" install -q "${PACKAGES[@]}"
        echo "$want" >"$STAMP"
    fi
    PYTHON="$PWD/$VENV/bin/python"
fi

# With the features of the command, so that all but the bindings is what `cargo test` has built.
cargo build --locked -q -p tenpak-python --features command
target="${CARGO_TARGET_DIR:-target}"
if [ -z "${TENPAK_COMMAND:-}" ]; then
    cargo build --locked -q --bin tenpak
    TENPAK_COMMAND="$PWD/$target/debug/tenpak"
fi
export TENPAK_COMMAND
site="$PWD/$target/python"
"$PYTHON" python/tests/stage.py "$target/debug/lib_tenpak.so" "$site"
# Not from the folder that it stands in: the extension is not there.
export PYTHONPATH="$site" PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
cd python
"$PYTHON" -m pytest "$@"
