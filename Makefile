# The verbs of the project. On a fresh machine `make demo` and `make test` need Python 3.9 to 3.12 and make, no more.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PARITY := .venv-parity
PARITY_STAMP := $(PARITY)/.installed
BENCH := .venv-bench
BENCH_STAMP := $(BENCH)/.installed

.PHONY: demo test test-slow test-matrix test-parity bench bench-linearity bench-pyramids lint docs clean help

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

# An environment of its own with PyTorch, timm and mmsegmentation: $(call environment_with_pytorch,FOLDER,EXTRAS)
define environment_with_pytorch
	$(PYTHON) -m venv $(1)
	$(1)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(2)]'
	$(1)/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement parity/requirements.txt
	touch $@
endef
COMMA := ,

$(PARITY_STAMP): setup.py pyproject.toml constraints.txt parity/requirements.txt
	$(call environment_with_pytorch,$(PARITY),cpu$(COMMA)test$(COMMA)parity)

## test-parity  the full models beside timm's and mmsegmentation's, in an environment of its own with PyTorch
test-parity: $(PARITY_STAMP)
	$(PARITY)/bin/python -m pytest parity

$(BENCH_STAMP): setup.py pyproject.toml constraints.txt parity/requirements.txt
	$(call environment_with_pytorch,$(BENCH),cpu$(COMMA)export$(COMMA)parity)

## bench        times and memory of Twins and XCiT beside timm's on PyTorch, into docs/benchmarks.md; needs a quiet machine
bench: $(BENCH_STAMP)
	$(BENCH)/bin/python -m benchmarks.compare_backbones --json runs/benchmarks.json --document docs/benchmarks.md

## bench-linearity  time and memory against pixels, into docs/linearity.md; needs a quiet machine and 16 GB
bench-linearity: $(STAMP)
	$(BIN)/python -m benchmarks.linearity --json runs/linearity.json --document docs/linearity.md \
	    --picture docs/pictures/linearity.png

## bench-pyramids  time and memory of VTFPN beside SemanticFPN, into docs/visual_transformers.md; needs a quiet machine
bench-pyramids: $(STAMP)
	$(BIN)/python -m benchmarks.compare_pyramids --json runs/pyramids.json --document docs/visual_transformers.md

## lint         ruff
lint: $(STAMP)
	$(BIN)/ruff check .

## docs         write the tables of the README and docs, and the schema, from the code
docs: $(STAMP)
	$(BIN)/python -m scripts.write_docs

## clean        remove environments and what the demo made
clean:
	rm -rf $(VENV) .venv-matrix $(PARITY) $(BENCH) demo build dist *.egg-info
