#!/usr/bin/env bash
# What GGUF candidates lose by `tenpak optimize`, beside llama.cpp's own logits of the same files on the same text.
set -euo pipefail
cd "$(dirname "$0")/../.."

TENPAK=${TENPAK:-target/release/tenpak} LLAMA=.venv-tools/llama.cpp/bin/python
[ -x $LLAMA ] || { echo "tests/judges/gguf_kl.sh: $LLAMA is missing: run tests/judges/engines.sh llama.cpp" >&2; exit 1; }
HERE=$(mktemp -d)
trap 'rm -rf "$HERE"' EXIT
export TENPAK_STORE=$HERE/store HOME=$HERE
"$TENPAK" -q pack fixtures/lm/base --name base >/dev/null
"$TENPAK" -q --json optimize base --name best --candidates q4_0,q4_k,q8_0 --objective quality --context 256 --hardware a10g \
    --engine llama.cpp --text fixtures/lm/test.txt >"$HERE/best.json"
compared=() told=()
for method in q4_0 q4_k q8_0; do
    "$TENPAK" -q unpack "best:optimize-$method" --out "$HERE/$method" >/dev/null
    file=$(ls "$HERE/$method"/*.gguf)
    .venv-judges/bin/python tests/judges/gguf_kl.py flat "$file" "$HERE/$method.gguf"
    told+=("$file") compared+=("$HERE/$method.gguf" "$HERE/best.json" "$method")
done
.venv-judges/bin/python tests/judges/gguf_kl.py base fixtures/lm/base "$file" "$HERE/base.gguf"
# As the files are; then the same weights without llama.cpp's own rounding.
$LLAMA tests/judges/gguf_kl.py compare fixtures/lm/test.txt 256 "$HERE/base.gguf" "${told[@]}"
$LLAMA tests/judges/gguf_kl.py compare fixtures/lm/test.txt 256 "$HERE/base.gguf" "${compared[@]}"
