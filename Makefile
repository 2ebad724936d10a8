# Two commands for users: `make demo` and `make test`. Everything they need is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: env demo test check bench format clean
env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml hatch_build.py $(wildcard proto/*/*.proto proto/*/*/*/*.proto)
	$(PYTHON) tools/bootstrap.py $(VENV)
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

demo: env
	$(BIN)/python tools/demo.py

test: env
	$(BIN)/python -m pytest -q

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: env
	$(BIN)/python -m pip install -q -r benchmarks/requirements.txt
	$(BIN)/python -m pip install -q --no-deps pnnx==20261020
	$(BIN)/python -m benchmarks.compare --output docs/benchmarks.md
	$(BIN)/python -m pytest -q -m slow

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist
