# `make` alone prints the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find crates python -name '*.rs' -o -name '*.py' -o -name '*.pyi' -o -name Cargo.toml) \
	Cargo.toml Cargo.lock pyproject.toml

.PHONY: help demo test lint test-rust test-python conformance bench scale fairness clean

help: ## Print the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/installed ## Set everything up and run the main job: index the standard library with all cores
	$(BIN)/procession run examples/python/index.py

test: lint test-rust test-python ## Set everything up and run every check and test

lint: $(VENV)/installed
	cargo fmt --all --check
	cargo fmt --manifest-path benches/peers/Cargo.toml --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BIN)/ruff format --check python tests examples benches
	$(BIN)/ruff check python tests examples benches
	$(BIN)/mypy
	@# The contract of imports is about Python files, and the core is none: its stub stands for it.
	@rm -rf target/imports && cp -r python target/imports && \
		mv target/imports/procession/_native.pyi target/imports/procession/_native.py
	PYTHONPATH=target/imports $(BIN)/lint-imports --no-cache
	MYPYPATH=python $(BIN)/python -m mypy.stubtest procession._native --ignore-disjoint-bases \
		--mypy-config-file pyproject.toml \
		--allowlist tests/python/stubtest-allowed.txt --ignore-unused-allowlist

test-rust: ## Run the tests of the crates
	@if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run --workspace && cargo test --workspace --doc --quiet; \
	else \
		cargo test --workspace; \
	fi
	@# The waiting algorithms under a model checker, which has its own build of the crate.
	RUSTFLAGS="--cfg model" cargo test --quiet --package procession-shm --test model --release \
		--target-dir target/model

test-python: $(VENV)/installed ## Run the tests of the Python package
	$(BIN)/pytest

conformance: $(VENV)/installed ## Run CPython's own tests of multiprocessing, under all start methods
	$(BIN)/python tests/conformance/run.py $(CONFORMANCE)

bench: $(VENV)/installed ## Compare with multiprocessing, ipc-channel, crossbeam and parking_lot
	$(BIN)/python benches/compare.py
	cargo run --release --quiet --manifest-path benches/peers/Cargo.toml

scale: $(VENV)/installed ## Measure 2 to 1,500 waiting processes, beside multiprocessing
	$(BIN)/python benches/scale.py

fairness: $(VENV)/installed ## Measure how long a waiter waits for a lock that is always wanted
	$(BIN)/python benches/fairness.py
	cargo run --release --quiet --manifest-path benches/peers/Cargo.toml fairness

clean: ## Remove what was built
	rm -rf target $(VENV) benches/peers/target

$(VENV)/tools: requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# The release build, as a wheel, installed with its command.
$(VENV)/installed: $(VENV)/tools $(SOURCES)
	$(BIN)/maturin build --release --quiet --interpreter $(BIN)/python --out target/wheels
	$(BIN)/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps \
		"$$(ls -t target/wheels/*.whl | head -1)"
	@touch $@
