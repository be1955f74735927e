# Everything a contributor runs. `make demo` and `make test` do all their own set-up.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow check format clean

demo: .venv/ready
	$(BIN)/cohortium demo

test: .venv/ready
	$(BIN)/pytest -m "not slow" --hypothesis-profile repeatable --numprocesses 2 --dist loadfile

test-slow: .venv/ready
	$(BIN)/pytest -m slow --numprocesses 2 --dist loadfile

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_layout.py

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else f"Cohortium needs Python 3.11 to 3.13, this is {sys.version.split()[0]}: set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
