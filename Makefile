# The verbs of the project. On a fresh machine `make demo` and `make test` need Python 3.9 to 3.12 and make, no more.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow test-matrix lint docs clean help

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

$(STAMP): setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 9) <= v <= (3, 12) or sys.exit("Python 3.9 to 3.12 is \
	needed, this is %d.%d: choose one, as in make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cpu,test]'
	touch $@

## demo         install, make data, train, evaluate, predict, export, infer; leaves demo/report.html
demo: $(STAMP)
	$(BIN)/python -m scripts.demo

## test         the tests, warnings as errors
test: $(STAMP)
	$(BIN)/python -m pytest -n 2

## test-slow    the tests that take minutes each
test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

## test-matrix  the quick tests on other versions of Paddle, each in an environment of its own
test-matrix: $(STAMP)
	$(BIN)/python -m scripts.test_matrix

## lint         ruff
lint: $(STAMP)
	$(BIN)/ruff check .

## docs         write the tables of the README and docs, and the schema, from the code
docs: $(STAMP)
	$(BIN)/python -m scripts.write_docs

## clean        remove environments and what the demo made
clean:
	rm -rf $(VENV) .venv-matrix demo build dist *.egg-info
