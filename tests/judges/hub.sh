#!/usr/bin/env bash
# Clients of the Hugging Face Hub judge an edge: three versions of huggingface_hub, transformers, and the
# Rust hf-hub 0.4 and 1.x download a model and compare every byte. Torch is .venv-judges' (tests/judges/setup.sh); the rest is
# installed here, in .venv-hub.
set -euo pipefail
cd "$(dirname "$0")/../.."

VENVS=.venv-hub
VERSIONS=(0.36.2 1.33.0 2.4.0)
TRANSFORMERS=5.23.0
TENPAK=${TENPAK:-target/debug/tenpak}

fail() { echo "tests/judges/hub.sh: $*" >&2; exit 1; }

[ -x "$TENPAK" ] || fail "$TENPAK is missing: cargo build, or set TENPAK"
[ -x .venv-judges/bin/python ] || fail ".venv-judges is missing: run tests/judges/setup.sh"

# A Python environment with these packages; the transformers' also finds what .venv-judges has.
environment() {
    local name=$1 want
    shift
    want="$*"
    [ "$(cat "$VENVS/$name/.installed" 2>/dev/null)" = "$want" ] && return
    python3 -m venv --clear "$VENVS/$name"
    "$VENVS/$name/bin/pip" install -q "$@"
    echo "$want" >"$VENVS/$name/.installed"
}

for version in "${VERSIONS[@]}"; do
    case $version in
        2.*) environment "hub-$version" "huggingface_hub==$version" hf_xet==1.8.0 ;;
        *) environment "hub-$version" "huggingface_hub==$version" ;;
    esac
done
environment transformers "transformers==$TRANSFORMERS"
site=$(.venv-judges/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
own=$("$VENVS/transformers/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$site" >"$own/judges.pth"

CARGO_TARGET_DIR=target/judges cargo build -q --locked --manifest-path tests/judges/hf_hub_client/Cargo.toml

work=$(mktemp -d)
edge=
trap '[ -z "$edge" ] || kill "$edge"; rm -rf "$work"' EXIT
export HOME="$work/home" HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_UPDATE_CHECK=1
export DISABLE_SAFETENSORS_CONVERSION=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
mkdir -p "$HOME"

"$VENVS/transformers/bin/python" tests/judges/make_llama.py "$work/llama" >"$work/made" 2>&1 || {
    cat "$work/made" >&2
    fail "transformers saves no model"
}
packed=$("$TENPAK" --json --store "$work/store" pack "$work/llama" --name org/llama | tail -1)
manifest=$(python3 -c 'import json, sys; print(json.loads(sys.argv[1])["manifest"])' "$packed")
commit=${manifest:0:40}
"$TENPAK" edge --origin "$work/store" --listen 127.0.0.1:0 >"$work/address" &
edge=$!
for _ in $(seq 100); do grep -q http "$work/address" && break; sleep 0.1; done
HF_ENDPOINT=$(grep -o 'http://[0-9.:]*' "$work/address") || fail "the edge does not start"
export HF_ENDPOINT

for version in "${VERSIONS[@]}"; do
    python="$VENVS/hub-$version/bin/python"
    HF_HOME="$work/$version" "$python" tests/edge/hub_client.py org/llama "$work/llama" "$work/$version/cache" "$commit"
    case $version in
        0.*) ;; # has no `cache verify`
        *) HF_HOME="$work/$version" "$VENVS/hub-$version/bin/hf" cache verify org/llama --cache-dir "$work/$version/cache" ;;
    esac
done
HF_HOME="$work/transformers" "$VENVS/transformers/bin/python" tests/judges/from_pretrained.py \
    org/llama "$work/llama" "$work/transformers/cache"
HF_HOME="$work/rust" target/judges/debug/hf_hub_client org llama "$work/llama" "$work/rust" "$commit"
echo "tests/judges/hub.sh: every client has every byte"
