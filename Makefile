# `make test` is the one command that checks everything, here and in CI. `make bench` prints figures and judges nothing.

CARGO_FLAGS ?= --release --workspace
HOST_TOOLS  := tests/peers/setup.sh

.PHONY: test check peers runtimes bench torture badline growth fairness fuzz

# Everything: style, docs, and every test against the real binary, with clients nobody here wrote.
test: check peers
	python3 protocol/tests/independent_reader.py
	cargo build $(CARGO_FLAGS) --all-targets
	cargo test $(CARGO_FLAGS) --features hark-tests/peers
	cd client-sdk/js && export PATH="$(CURDIR)/target/peers/bin:$$PATH" HARK_BIN="$(CURDIR)/target/release/hark" && \
		npm ci --silent && npm run --silent check && npm test --silent

# What needs no running: formatting, lints and docs, warnings as errors.
check:
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy $(CARGO_FLAGS) --all-targets --features hark-tests/peers -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --no-deps

# The outside peers the tests speak to, installed under target/; the browsers and curl, where they are missing, on the machine.
peers:
	$(HOST_TOOLS)

# The JavaScript client's package in other runtimes (Node 22, Deno, Bun, workerd), through bundlers, and in frameworks: what npm has of all these, some
# 650 MB, and a minute. Fails where one cannot be had.
runtimes: peers
	cargo build --release -p hark-broker --bin hark
	cd client-sdk/js && export PATH="$(CURDIR)/target/peers/bin:$$PATH" HARK_BIN="$(CURDIR)/target/release/hark" && \
		npm ci --loglevel=error --no-audit --no-fund && cd runtimes && npm ci --loglevel=error --no-audit --no-fund --ignore-scripts && node24 --test *.test.js

# What a delivery and a receipt cost, with the machine's fdatasync and nats-server beside them. Wants two idle cores.
bench:
	tests/peers/nats.sh
	cargo build --release -p hark-broker -p hark-tests --bin hark --bin hark-bench
	HARK_BENCH_NATS=target/peers/nats-server ./target/release/hark-bench

# The long hunt: 500 kills with messages in flight, and every other fault between them, some ten minutes. Then floods, some four: what quiet
# clients wait beside each, and what it costs in memory and log, as a table. Then a drain with 5,000 sessions (and as many open files), half a
# minute. Wants two idle cores. Prints a seed first; what it finds is drawn again with TORTURE="--seed N". `--only hunt`, `floods` or `drain`, or
# one fault or flood by its name, `--minutes N` and `--cycles N` narrow it.
TORTURE ?= --cycles 500
torture:
	cargo run --release -p hark-tests --bin hark-torture -- $(TORTURE)

# The broker and its clients at the two ends of a line that is long, slow, narrow, loses, reorders and breaks off: some ten minutes, a figure
# and its bound for each scenario. Wants root (it makes two network namespaces of its own), and fails where it cannot run. BADLINE="--seed N"
# draws the same losses again; `--only NAME` runs the scenarios whose names begin so, `--congestion cubic` sets how TCP controls its congestion.
badline: peers
	tests/badline/setup.sh
	cd client-sdk/js && PATH="$(CURDIR)/target/peers/bin:$$PATH" npm ci --silent
	cargo build --release -p hark-broker -p hark-tests --bin hark --bin hark-badline
	./target/release/hark-badline $(BADLINE)

# What 10 to a million topics cost: disk, opening, memory and a receipt, as a table. Takes some ten minutes, 3 GB of disk and two idle cores;
# HARK_GROWTH_TOPICS="10,1000" makes it short.
growth:
	cargo build --release -p hark-broker -p hark-tests --bin hark --bin hark-bench
	./target/release/hark-bench growth

# What a quiet topic's publisher waits for its receipt, alone and beside floods of large and of small messages: p50 and p99, in one run of
# some 40 seconds. Wants two idle cores; that no flood holds it up by more than a commit or two, `make test` holds, in commits.
fairness:
	cargo build --release -p hark-broker -p hark-tests --bin hark --bin hark-bench
	./target/release/hark-bench fairness

# What reads bytes from the network, under cargo-fuzz: each target for a minute. What is found lies in fuzz/artifacts/; as a seed in
# fuzz/src/targets.rs it is held by a test. Without a nightly toolchain, RUSTC_BOOTSTRAP lets the stable one do it.
FUZZ_SECONDS ?= 60
fuzz:
	HARK_FUZZ_CORPUS=$(CURDIR)/fuzz/corpus cargo test --release -p hark-broker --test fuzz seeds_are_written
	cd fuzz && export RUSTC_BOOTSTRAP=1 && for target in $$(cargo fuzz list); do \
		cargo fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) || exit; done
