# Each command does all the set-up on a fresh machine with Python 3.11 or newer, make and git:
#   make train   builds .venv and trains the default model on easy-VQA to its accuracy
#   make demo    builds .venv, trains that model if there is none, and opens a page to ask it
#   make test    builds .venv and runs lint, type check and tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: train demo test test-all fuzz lint bench build clean

# The stamp is made last: an installation that was interrupted starts clean on the next call.
# "compat" puts this folder on the path: the default's import hook comes after a folder of the same
# name, and a clone called `vlm` would hide the package from scripts beside it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed; this is %d.%d. Name another one: make PYTHON=python3.12 ..." % v)'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
		--config-settings editable_mode=compat -e '.[dev]'
	touch $@

# Every call trains a run of its own: one that was interrupted leaves a folder and nothing else. Other
# models of the same configuration lie elsewhere, so that the demo's is the default one.
TRAIN := $(BIN)/vlm fit -c configs/easy_vqa.yaml --run.name=default
train: $(READY)
	$(TRAIN)

demo: $(READY)
	@ls runs/default/*/checkpoints/best.ckpt > /dev/null 2>&1 || $(TRAIN)
	$(BIN)/vlm demo --open "$$(ls -t runs/default/*/checkpoints/best.ckpt | head -n 1)"

# Two files of tests at a time: each runs models of one thread, and what is shared is made once a file.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST)

# What strangers send, at random: pictures, questions, lines of data and configurations. A failure
# prints what reproduces it.
FUZZ_CASES ?= 10000
fuzz: $(READY)
	VLM_FUZZ_CASES=$(FUZZ_CASES) $(BIN)/python -m pytest -q tests/fuzz

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/startup.py

build: $(READY)
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) build dist *.egg-info
