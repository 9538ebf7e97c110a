# Two commands matter: `make quickstart` and `make test`. Both work on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
# Two workers of one thread each: several multi-threaded torch processes slow each other down.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal

.PHONY: quickstart test test-slow bench lint

quickstart: .venv/installed
	PYTHON=$(BIN)/python bash SampleRuns/Quickstart.sh

test: .venv/installed-tests lint
	$(PYTEST) $(TESTS)

test-slow: .venv/installed-tests
	$(PYTEST) -m slow

bench: .venv/installed-tests
	for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

lint: .venv/installed-tests
	$(BIN)/ruff check --quiet .

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-tests: tests/requirements.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@
