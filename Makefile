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
test: test-rust test-python ## Run all tests, on every CPython from 3.10 to 3.13 that is here

.PHONY: test-rust
test-rust: ## Run the tests of the Rust core; they need no Python
	cargo test --quiet

.PHONY: test-python
test-python: $(TOOLS) ## Run the tests of the package, CPython's own included
	$(BIN)/tox run-parallel --parallel 2 --parallel-no-spinner

.PHONY: test-newer
test-newer: ## Run the same on CPython 3.14 and 3.15, in a Debian sid root (needs root and Debian)
	tests/newer/run

.PHONY: lint
lint: $(TOOLS) ## Check format and style of Rust and Python; warnings are errors
	cargo fmt --check
	cargo clippy --quiet --all-targets -- --deny warnings
	cargo clippy --quiet --all-targets --features python -- --deny warnings
	cargo fmt --check --manifest-path benches/load/Cargo.toml
	cargo clippy --quiet --locked --manifest-path benches/load/Cargo.toml --target-dir target/load \
		-- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --quiet --no-deps
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
	$(BIN)/ruff check --quiet --fix --exit-zero
	$(BIN)/ruff format --quiet

.PHONY: bench
bench: $(BENCH_TOOLS) ## Compare with other servers (tables, benches/compare.svg), and time the core
	CARGO_TARGET_DIR=$(WHEEL_TARGET) $(BIN)/pip install --quiet --force-reinstall --no-deps .
	$(BIN)/python benches/compare --picture benches/compare.svg
	cargo bench --quiet --bench '*'

.PHONY: clean
clean: ## Remove what was built
	cargo clean
	rm -rf $(VENV) .tox
