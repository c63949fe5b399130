# `make help` lists the targets. Everything that they need is installed into .venv first.

VENV := .venv
BIN := $(VENV)/bin
TOOLS := $(VENV)/.tools
BENCH_TOOLS := $(VENV)/.bench-tools
# maturin and plain cargo would build PyO3 anew for each other in one folder.
WHEEL_TARGET := target/wheel

# tox looks for CPython 3.10 to 3.13 on the PATH, and among pyenv's where there is one.
space := $(subst ,, )
PYENV_PYTHONS := $(wildcard $(shell pyenv root 2>/dev/null)/versions/3.*/bin/python)
export TOX_DISCOVER := $(subst $(space),:,$(PYENV_PYTHONS))

# Tools of cargo's, built where `cargo clean` finds them.
CARGO_TOOLS := target/tools
NIGHTLY := $(shell rustup toolchain list 2>/dev/null | grep -o '^nightly[^ ]*' | head -n 1)
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_SECONDS := 30

.DEFAULT_GOAL := help

.PHONY: help
help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(TOOLS): pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --group dev
	touch $@

$(BENCH_TOOLS): $(TOOLS)
	$(BIN)/pip install --quiet --group bench
	touch $@

.PHONY: build
build: $(TOOLS) ## Build the package, optimised, into .venv
	VIRTUAL_ENV=$(VENV) $(BIN)/maturin develop --release --quiet --target-dir $(WHEEL_TARGET)

.PHONY: test
test: test-rust test-embedded test-python ## Run all tests, on every CPython from 3.10 to 3.13 that is here

.PHONY: test-rust
test-rust: ## Run the tests of the Rust core; they need no Python
	cargo test --quiet

.PHONY: test-embedded
test-embedded: ## Run a Rust program that embeds Python (its libpython must be where programs find it)
	cargo build --quiet --features python --examples
	cargo test --quiet --features python --test examples

.PHONY: fuzz
fuzz: ## Run the fuzz targets for FUZZ_SECONDS each: cargo-fuzz where there is a nightly Rust
ifdef NIGHTLY
fuzz: $(CARGO_TOOLS)/bin/cargo-fuzz
	for target in address line_reader; do \
		PATH="$(CURDIR)/$(CARGO_TOOLS)/bin:$$PATH" cargo +$(NIGHTLY) fuzz run $$target \
			--target-dir target/fuzz-nightly -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done
else
fuzz:
	cargo run --release --quiet --no-default-features --manifest-path fuzz/Cargo.toml \
		--target-dir target/fuzz --bin stable $(FUZZ_SECONDS)
endif

MEMCHECK = --target $(HOST) --target-dir target/memcheck

.PHONY: memcheck
memcheck: ## Look for bad memory accesses of the core: address sanitizer (nightly Rust) or valgrind
ifdef NIGHTLY
	RUSTFLAGS=-Zsanitizer=address cargo +$(NIGHTLY) build --quiet --examples $(MEMCHECK)
	RUSTFLAGS=-Zsanitizer=address cargo +$(NIGHTLY) test --quiet --lib --tests $(MEMCHECK)
else
	CARGO_TARGET_$(shell echo $(HOST) | tr a-z- A-Z_)_RUNNER='valgrind --quiet --error-exitcode=1' \
		cargo test --quiet --lib --test datagram --test listener --test stream
endif

.PHONY: deny
deny: $(CARGO_TOOLS)/bin/cargo-deny ## Check licences, sources and known faults of the dependencies
	$(CARGO_TOOLS)/bin/cargo-deny --locked check bans licenses sources
	@if $(CARGO_TOOLS)/bin/cargo-deny fetch db; then \
		$(CARGO_TOOLS)/bin/cargo-deny --locked check advisories; \
	else \
		echo 'known faults are not checked: their database cannot be had here'; \
	fi

.PHONY: semver
semver: ## Compare the crate's interface with that of the last release
	@if tag=$$(git describe --tags --abbrev=0 2>/dev/null); then \
		$(MAKE) $(CARGO_TOOLS)/bin/cargo-semver-checks && \
		$(CARGO_TOOLS)/bin/cargo-semver-checks semver-checks --baseline-rev "$$tag" \
			--only-explicit-features; \
	else \
		echo 'there is no release yet to compare the interface with'; \
	fi

$(CARGO_TOOLS)/bin/%:
	cargo install --locked --quiet --root $(CARGO_TOOLS) $*

.PHONY: test-python
test-python: $(TOOLS) ## Run the tests of the package, CPython's own included
	$(BIN)/tox run-parallel --parallel 2 --parallel-no-spinner

.PHONY: soak
soak: $(TOOLS) ## Run the fault tests at length: a million requests, and all faults at full count
	$(BIN)/tox run -e soak

.PHONY: test-newer
test-newer: ## Run the same on CPython 3.14 and 3.15, in a Debian sid root (needs root and Debian)
	tests/newer/run

.PHONY: lint
lint: $(TOOLS) ## Check format and style of Rust and Python; warnings are errors
	cargo fmt --check
	cargo clippy --quiet --all-targets -- --deny warnings
	cargo clippy --quiet --all-targets --features python -- --deny warnings
	cargo fmt --check --manifest-path benches/load/Cargo.toml
	cargo clippy --quiet --locked --all-features --manifest-path benches/load/Cargo.toml \
		--target-dir target/load -- --deny warnings
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --quiet --locked --no-default-features --manifest-path fuzz/Cargo.toml \
		--target-dir target/fuzz -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --quiet --no-deps
	RUSTDOCFLAGS='--deny warnings' cargo doc --quiet --no-deps --features python
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet

.PHONY: typecheck
typecheck: build ## Check the types, and the extension's stub against the extension
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest fastsocketserver._core
	cd benches/compare && ../../$(BIN)/mypy --strict .

.PHONY: format
format: $(TOOLS) ## Format Rust and Python
	cargo fmt
	cargo fmt --manifest-path benches/load/Cargo.toml
	cargo fmt --manifest-path fuzz/Cargo.toml
	$(BIN)/ruff check --quiet --fix --exit-zero
	$(BIN)/ruff format --quiet

.PHONY: bench
bench: $(BENCH_TOOLS) ## Compare with other servers (tables, benches/compare.svg), and time the core
	CARGO_TARGET_DIR=$(WHEEL_TARGET) $(BIN)/pip install --quiet --force-reinstall --no-deps .
	$(BIN)/python benches/compare --picture benches/compare.svg
	cargo bench --quiet --bench '*'

.PHONY: bench-rust
bench-rust: ## Compare with servers in Rust: a thread for each connection, tokio, bare mio
	python3 benches/compare --rust

.PHONY: clean
clean: ## Remove what was built
	cargo clean
	rm -rf $(VENV) .tox
