# Set-up and the commands of every day. Needs Python 3.11 or newer, make and git; all else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NAME ?= quickstart
UNIT := tests/unit tests/contract tests/golden
QUICK := not e2e and not integration and not slow
export RAY_USAGE_STATS_ENABLED ?= 0
export MLFLOW_DISABLE_TELEMETRY ?= true

.PHONY: study test test-all unit lint bench site lock clean setup

study: $(READY)  ## set up, run the quick-start study, write its report
	$(BIN)/murk run study/presets/quickstart.yaml --name $(NAME)

test: $(READY)  ## set up, run the tests (unit, contract, golden, integration)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "$(QUICK)" $(UNIT)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not e2e and not integration" $(UNIT)
	$(BIN)/python -m pytest -m integration tests/unit tests/integration

test-all: test  ## and the slow end-to-end ones, with a soak of 300 trials
	MURK_SOAK_TRIALS=$${MURK_SOAK_TRIALS:-300} $(BIN)/python -m pytest -m e2e tests

unit: $(READY)  ## the quick tests only
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "$(QUICK)" $(UNIT)

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(READY)  ## ratios, printed side by side; asserts nothing
	for file in tests/bench/bench_*.py; do $(BIN)/python $$file || exit 1; done

site: $(READY)  ## the documentation as a site: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lock: $(READY)  ## renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.11 --extra dev \
		pyproject.toml -o requirements.lock

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Murk needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(READY)

clean:  ## remove .venv and caches; results stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist site *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
