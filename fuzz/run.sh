#!/bin/sh
# Runs every fuzz target, or those named, for FUZZ_SECONDS each (20 unless told), beginning with the
# fixtures of its format. RUSTC_BOOTSTRAP lets a stable compiler take the flags of the address
# sanitizer and of coverage, which are nightly's otherwise; it reaches nothing but this build.
set -eu
cd "$(dirname "$0")"
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked
fixtures=../fixtures
export RUSTC_BOOTSTRAP=1

seeds() {
    hostile=$fixtures/hostile v1=$fixtures/v1
    case $1 in
        fuzz_codec_round_trip | fuzz_delta_round_trip | fuzz_safetensors) echo $v1/files ;;
        fuzz_delta) echo $hostile/chunk $v1/chunks ;;
        fuzz_envelope) echo $hostile/ref $hostile/refs-index $hostile/refs-root $v1/store/refs $v1/tree/refs ;;
        fuzz_json) echo $hostile/json $hostile/manifest $v1/store/manifests ;;
        fuzz_layout) echo $hostile/layout $v1/store/layouts ;;
        fuzz_manifest) echo $hostile/manifest $v1/store/manifests $v1/objects ;;
        fuzz_openpgp_sig) echo $fixtures/trust ;;
        fuzz_pack_index) echo $hostile/pack-index $hostile/pack-trailer $v1/store/packs ;;
        fuzz_page) echo $hostile/tensor-page $hostile/file-page $v1/store/tables $v1/objects ;;
        fuzz_planes) echo $hostile/chunk $v1/chunks ;;
        fuzz_refs_node) echo $hostile/refs-node $v1/tree/names ;;
        fuzz_record) echo $hostile/record ;;
        fuzz_store_document)
            echo $hostile/by-tensor $hostile/descriptor $hostile/lease $hostile/tombstone
            echo $v1/store/by-tensor $v1/store/leases $v1/store/tombstones
            ;;
        fuzz_trust_file) echo $fixtures/trust ;;
        fuzz_zstd) echo $hostile/chunk ;;
    esac
    if [ -d "seeds/$1" ]; then echo "seeds/$1"; fi
}

[ $# -gt 0 ] || set -- $(cargo fuzz list)
for target; do
    echo "== $target"
    mkdir -p "corpus/$target"
    # Long enough for every fixture but those that only are too long.
    cargo fuzz run "$target" "corpus/$target" $(seeds "$target") -- \
        -max_total_time="${FUZZ_SECONDS:-20}" -max_len=16384 -timeout=20 -rss_limit_mb=4096
done
