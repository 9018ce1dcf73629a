#!/usr/bin/env bash
# The judges, one after the other: `run.sh [STEP]...`, all of them if none is named. A step that fails does not
# keep the others from running. Ends with a line for each: how it went, how long it took, and the last line that
# it printed; exits with 1 if one failed. The output of each is kept in target/judges/STEP.log.
set -uo pipefail
cd "$(dirname "$0")/../.."

LOGS=target/judges
DRAWS=${DRAWS:-5}
JUDGES=.venv-judges/bin/python
declare -A STEPS=(
    [setup]="tests/judges/setup.sh"
    [tools]="tests/judges/tools.sh"
    [build]="cargo build --release --locked --bin tenpak --example calibrated_perplexity --example token_logprobs"
    [families]="$JUDGES tests/judges/families.py"
    [record]="$JUDGES tests/judges/record.py --check fixtures/produce/vectors.json"
    [blocks]="$JUDGES tests/judges/blocks.py --check fixtures/gguf/blocks.json"
    [written]="$JUDGES tests/judges/written.py --check fixtures/gguf/written.json fixtures/gguf/written_q5.json"
    [fp4]="$JUDGES tests/judges/fp4.py --check fixtures/fp4/vectors.json"
    [load]="$JUDGES tests/judges/load.py"
    [gguf]="$JUDGES tests/judges/load_gguf.py"
    [gguf_families]="$JUDGES tests/judges/gguf_families.py"
    [gguf_kl]="tests/judges/gguf_kl.sh"
    [gptq]=".venv-tools/gptqmodel/bin/python tests/judges/load_gptq.py"
    [backends]="$JUDGES tests/judges/backends.py"
    [hub]="tests/judges/hub.sh"
    [engines]="tests/judges/engines.sh"
    [serve]="tests/judges/serve.sh"
    [embedded]=".venv-judges/bin/python tests/judges/embedded.py"
    [python]="tests/judges/python.sh"
    [mount]="$JUDGES tests/judges/mount.py"
    [perplexity]="$JUDGES tests/judges/perplexity.py --draws $DRAWS"
    [experts]="$JUDGES tests/judges/perplexity.py --draws $DRAWS --model fixtures/lm/moe --tool gptqmodel-static"
)
ORDER=(setup tools build families record blocks written fp4 load gguf gptq backends hub engines gguf_families gguf_kl embedded serve python mount perplexity experts)

[ $# -gt 0 ] || set -- "${ORDER[@]}"
for step; do
    [ -n "${STEPS[$step]:-}" ] || { echo "tests/judges/run.sh: no step $step; there are ${ORDER[*]}" >&2; exit 2; }
done
export TENPAK=${TENPAK:-target/release/tenpak} PYTHONUNBUFFERED=1 TQDM_DISABLE=1
mkdir -p "$LOGS"
summary=() failed=0
for step; do
    log="$LOGS/$step.log" begun=$SECONDS went=passed
    echo "== $step: ${STEPS[$step]}"
    # Word splitting is meant: a step is a command.
    ${STEPS[$step]} 2>&1 | tee "$log" || { went=FAILED; failed=1; }
    summary+=("$(printf '%-13s  %-6s  %5d s  %s' "$step" "$went" $((SECONDS - begun)) "$(tail -n 1 "$log" | cut -c -120)")")
done
echo
printf '%s\n' "${summary[@]}"
exit $failed
