# The project's commands. `make test`, `make demo` and `make bench` install what
# they need themselves (as root on Debian; elsewhere they say what is missing).

.PHONY: build test test-fast soak fuzz judges cache-tests bench demo deny features wasm wheel fmt lint clean-data

build:
	cargo build --release --locked

# What the tests need is fetched while the sources are checked; then all tests.
test:
	tests/setup.sh & setup=$$!; $(MAKE) lint features; checked=$$?; wait $$setup && exit $$checked
	cargo test --locked

# What needs no web server, bucket, browser or Python beside it.
FAST = dependencies encode faults features http layers loader maintain maintain_cli memory quant_config resident \
	trust trust_vectors vectors
test-fast:
	cargo test --locked --lib $(addprefix --test ,$(FAST))

# The long fault run: 10,000 random faults at rest and on the wire, and 300 kills of `pack`; then the
# edge: 100,000 flipped bits, 300 kills, 1,000 cold clients, 500 slow readers; 10,000 jobs of workers that are killed.
SOAK ?= 10000
SOAK_KILLS ?= 300
SOAK_FLIPS ?= 100000
SOAK_CLIENTS ?= 1000
SOAK_READERS ?= 500
SOAK_JOBS ?= 10000
soak:
	tests/setup.sh
	TENPAK_SOAK=$(SOAK) cargo test --release --locked --test behaviour -- matrix::
	TENPAK_SOAK=$(SOAK_KILLS) cargo test --release --locked --test behaviour -- interrupted::
	TENPAK_KILL_ROUNDS=$(SOAK_KILLS) cargo test --release --locked --test maintain_cli -- --ignored soak_kills
	TENPAK_SOAK=$(SOAK_FLIPS) cargo test --release --locked --test edge -- flips::
	TENPAK_SOAK=$(SOAK_KILLS) cargo test --release --locked --test edge -- kills::
	TENPAK_SOAK=$(SOAK_CLIENTS) cargo test --release --locked --test edge -- cold:: --test-threads 1
	TENPAK_SOAK=$(SOAK_READERS) cargo test --release --locked --test edge -- slow::
	TENPAK_SOAK=$(SOAK_JOBS) cargo test --release --locked --test jobs -- company:: cost:: --test-threads 1

# Every parser's fuzz target for FUZZ_SECONDS each, on the stable compiler.
FUZZ_SECONDS ?= 60
fuzz:
	FUZZ_SECONDS=$(FUZZ_SECONDS) fuzz/run.sh

# The libraries whose formats `quantize` writes: do they store what we store, and load what we wrote? The tools
# that calibrate: is their output better than ours, and does `--backend` run them? The Hub's clients: do they
# take every byte from an edge? The engines: do they load it, and say what the weights say? Takes two hours; STEPS="load gguf" runs some of it (tests/judges/run.sh).
DRAWS ?= 5
judges:
	DRAWS=$(DRAWS) tests/judges/run.sh $(STEPS)

# The public suite of tests for HTTP caches against an edge: CACHE_TESTS is a checkout of
# https://github.com/http-tests/cache-tests. Needs node.
CACHE_TESTS ?= ../cache-tests
cache-tests: build
	node tests/judges/caching.mjs $(CACHE_TESTS) target/release/tenpak

# Every required figure, ratios side by side. BENCH="--quick", "--only http", ...
bench:
	benches/setup.sh
	cargo build --release --locked --bins --examples
	cargo build --release --locked -p tenpak-python --features command
	python3 benches/run.py $(BENCH)

# The tour on a real model; MODEL=DIR takes another one.
demo: build
	python3 examples/demo.py

fmt:
	cargo fmt --all

lint:
	cargo fmt --all --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy -p tenpak-python --features command --locked -- -D warnings

# Each feature of the library builds with nothing but itself, and none of them.
FEATURES = load cloud openpgp pack wgpu cuda models produce edge mount engine serve optimize studio
features:
	cargo check --lib --locked --no-default-features
	for feature in $(FEATURES); do \
		cargo check --lib --locked --no-default-features --features $$feature || exit 1; \
	done

# The library without features, for WebAssembly: needs clang, and `rustup target add wasm32-unknown-unknown`.
wasm:
	cargo check --lib --locked --no-default-features --target wasm32-unknown-unknown

# The Python package with the command inside, in python/dist: for every Python from 3.11 on. Needs maturin
# (pip install maturin). The module has what it uses of the library, and no more.
wheel: build
	mkdir -p python/tenpak.data/scripts
	strip -o python/tenpak.data/scripts/tenpak target/release/tenpak
	cd python && maturin build --release --locked --out dist

# Needs cargo-deny (cargo install cargo-deny) and, for advisories, the network. tests/dependencies.rs holds
# licences, sources and duplicates without either.
deny:
	cargo deny --locked check $(DENY)

clean-data:
	rm -rf bench-data demo-data
