PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-long lint bench chaos clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/clftask demo

test: install
	$(BIN)/pytest --numprocesses 2 --dist worksteal

# What `make test` leaves out, except chaos.
test-long: install
	$(BIN)/pytest --numprocesses 2 --dist worksteal -m 'slow and not chaos'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: demo
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/tune.py
	$(BIN)/python benchmarks/score.py --input demo/data/aws_unlabelled.parquet --rows 3000 \
	    --bundle "$$(ls -td demo/runs/multilabel-*/bundle | head -1)"
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/estimate.py

chaos: install
	$(BIN)/pytest -m chaos
	$(BIN)/python tests/soak.py --minutes 60

clean:
	rm -rf $(VENV) demo build *.egg-info
