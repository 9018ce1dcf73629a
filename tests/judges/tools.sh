#!/usr/bin/env bash
# Installs the calibrating tools that `make judges` compares with, and transformers before 5, each in an environment of its own under
# .venv-tools; torch is .venv-judges' (tests/judges/setup.sh). Safe to run again: what is there is kept.
set -euo pipefail
cd "$(dirname "$0")/../.."

VENVS=.venv-tools
fail() { echo "tests/judges/tools.sh: $*" >&2; exit 1; }
[ -x .venv-judges/bin/python ] || fail ".venv-judges is missing: run tests/judges/setup.sh"
TORCH=$(.venv-judges/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# What all of them import. Without dependencies: those name the CUDA build of torch, several GB.
COMMON=(
    setuptools==81.0.0 PyYAML==6.0.4 Pygments==2.21.0 accelerate==1.15.0 annotated-doc==0.0.7 annotated-types==0.8.0
    anyio==4.16.0 certifi charset-normalizer==3.5.3 click==8.5.1 dill==0.4.1 h11==0.16.0
    hf-xet==1.8.0 httpcore==1.0.9 httpx==0.28.1 idna==3.20 markdown-it-py==4.3.0 mdurl==0.1.2
    multiprocess==0.70.19 pandas==3.1.1 pillow==13.0.0 pyarrow==26.0.1 pydantic==2.14.4
    pydantic_core==2.50.5 python-dateutil==2.9.0.post0 regex==2026.11.19 requests==2.34.2 rich==15.0.0
    shellingham==1.5.4 six==1.17.0 typer==0.29.2 typing-inspection==0.4.5 urllib3==2.8.0 xxhash==4.1.0
)

environment() { # NAME MODULE PACKAGE...
    local name=$1 module=$2 want python="$VENVS/$1/bin/python"
    shift 2
    want="$TORCH ${COMMON[*]} $*"
    [ "$(cat "$VENVS/$name/.installed" 2>/dev/null)" = "$want" ] && return
    python3 -m venv --clear "$VENVS/$name"
    # Its own packages come before those found there.
    echo "$TORCH" >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/judges.pth"
    "$python" -m pip install -q --no-deps "${COMMON[@]}" "${@:1:$#-1}"
    # The tool itself last: it may be built here, with what it imports.
    "$python" -m pip install -q --no-deps --no-build-isolation "${@: -1}"
    # GPTQModel asks its pool for more workers than two cores have.
    "$python" -c "import os; os.cpu_count = lambda: 4; import $module" || fail "$module does not import"
    echo "$want" >"$VENVS/$name/.installed"
}

environment gptqmodel gptqmodel \
    numpy==2.2.6 Defuser==0.0.28 Device-SMI==0.5.7 LogBar==0.4.15 PyPcre==0.6.4 TokeNicer==0.0.14 \
    httpcore2==2.16.2 httpx2==2.16.2 truststore==0.10.5 huggingface_hub==2.4.0 threadpoolctl==3.8.0 tokenizers==0.23.3 \
    torchao==0.18.0 tqdm==4.70.1 transformers==5.24.0 datasets==5.2.0 protobuf==7.36.2 maturin==1.16.0 optimum==2.3.0 gptqmodel==7.6.0
environment llmcompressor llmcompressor \
    auto-round==0.15.1 compressed-tensors==0.19.0 huggingface_hub==1.33.0 loguru==0.7.3 nvidia-ml-py==13.615.71 \
    packaging==26.4 py-cpuinfo==9.0.0 pytz==2026.6 tzdata==2026.6 tokenizers==0.23.3 tqdm==4.70.1 \
    transformers==5.17.0 datasets==5.2.0 llmcompressor==0.14.0.1
# The newest transformers before 5, and the tools that it loads GPTQ and AWQ with.
environment transformers4 gptqmodel \
    numpy==2.2.6 Defuser==0.0.28 Device-SMI==0.5.7 LogBar==0.4.15 PyPcre==0.6.4 TokeNicer==0.0.14 random_word hf_transfer \
    huggingface_hub==0.36.2 threadpoolctl==3.8.0 tokenizers==0.22.2 torchao==0.18.0 tqdm==4.70.1 packaging==26.4 \
    transformers==4.57.6 datasets==4.3.0 zstandard==0.25.0 autoawq==0.2.9 maturin==1.16.0 wheel optimum==2.1.0 \
    gptqmodel==5.7.0
# Its last version; transformers is the last that it was tested with.
environment autoawq awq \
    huggingface_hub==0.36.2 tokenizers==0.21.4 tqdm==4.70.1 packaging==26.4 transformers==4.51.3 \
    datasets==4.3.0 zstandard==0.25.0 autoawq==0.2.9
echo "tests/judges/tools.sh: ready in $VENVS"
