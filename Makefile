# Each command does all the set-up on a fresh machine with Python 3.11 or newer, make and git:
#   make train   builds .venv and trains the default model on easy-VQA to its accuracy
#   make demo    builds .venv, trains that model if there is none, and opens a page to ask it
#   make test    builds .venv and runs lint, type check and tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two stages, each with a stamp: what training needs, and the rest for the demo, the tests and the locks.
TRAINABLE := $(VENV)/.train
READY := $(VENV)/.dev

.PHONY: train demo test test-fast test-all test-lowest fuzz lint docs links bench build release lock clean

# Wheels only, each with its hash: installing runs no code of theirs, and a changed file is refused.
# The locks are complete, so nothing is resolved: pip before 23.3 reads `fsspec[http]` past the pin.
INSTALL := pip install --quiet --disable-pip-version-check --only-binary=:all: --require-hashes --no-deps -r
# "compat" puts this folder on the path: the default's import hook comes after a folder of the same
# name, and a clone called `vlm` would hide the package from scripts beside it.
INSTALL_VLM := pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	--config-settings editable_mode=compat -e .

# A stamp is made last: an interrupted installation starts clean on the next call.
$(TRAINABLE): pyproject.toml locks/train.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed; this is %d.%d. Name another one: make PYTHON=python3.12 ..." % v)'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(INSTALL) locks/train.lock
	$(BIN)/$(INSTALL_VLM)
	touch $@

$(READY): $(TRAINABLE) locks/dev.lock
	$(BIN)/$(INSTALL) locks/dev.lock
	touch $@

# Every call trains a run of its own: one that was interrupted leaves a folder and nothing else. Other
# models of the same configuration lie elsewhere, so that the demo's is the default one.
TRAIN := $(BIN)/vlm fit -c configs/easy_vqa.yaml --run.name=default
train: $(TRAINABLE)
	$(TRAIN)

demo: $(READY)
	@ls runs/default/*/checkpoints/best.ckpt > /dev/null 2>&1 || $(TRAIN)
	$(BIN)/vlm demo --open "$$(ls -t runs/default/*/checkpoints/best.ckpt | head -n 1)"

# Two files of tests at a time: each runs models of one thread, and what is shared is made once a file.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile

test: lint
	$(PYTEST) -m "not slow"

# Under two minutes, for every commit: layers and public names, fusions beside their authors' numbers,
# heads, texts, metrics, tables of questions.
FAST := fusion parity heads text metrics test_layers.py test_features.py test_public.py \
	data/test_questions.py data/test_table_rows.py data/test_json_file.py data/test_custom_files.py \
	data/test_custom_columns.py data/test_sampler.py
test-fast: $(READY)
	$(PYTEST) -m "not slow" $(FAST:%=tests/%)

test-all: lint
	$(PYTEST)

# What strangers send, at random: pictures, questions, lines of data and configurations. A failure
# prints what reproduces it.
FUZZ_CASES ?= 10000
fuzz: $(READY)
	VLM_FUZZ_CASES=$(FUZZ_CASES) $(BIN)/python -m pytest -q tests/fuzz

# The lowest versions that pyproject.toml allows, for Python 3.11, in an environment of their own.
LOWEST := .venv-lowest
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow" -p no:warnings

$(LOWEST)/.ready: pyproject.toml locks/lowest.lock
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/$(INSTALL) locks/lowest.lock
	$(LOWEST)/bin/$(INSTALL_VLM)
	touch $@

# Pins and hashes for every platform; the smaller lock has the versions of the larger.
# `make lock UPGRADE=--upgrade` moves every pin to the newest version.
COMPILE = $(BIN)/uv pip compile $(UPGRADE) --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command "make lock" pyproject.toml
lock: $(READY)
	$(COMPILE) --extra dev -o locks/dev.lock
	$(COMPILE) --extra train --extra encoders -c locks/dev.lock -o locks/train.lock
	$(COMPILE) --extra dev --resolution lowest-direct --upgrade -o locks/lowest.lock

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell -D - README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md docs configs demos
	$(BIN)/mypy

# The site, in build/docs. A warning is an error: a broken link, a page that no list names, a docstring
# that cannot be read.
docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -n -q docs build/docs

# The links to other sites, which need a network. `make docs` checks those between the pages.
links: $(READY)
	$(BIN)/python -m sphinx -b linkcheck -q docs build/links

bench: $(READY)
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/startup.py

build: $(READY)
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m build --wheel --outdir dist runtime

# Builds and checks what a release publishes. The version stands in vlm/core/version.py; a tag with
# it (v0.1.0) starts the publishing workflow.
release: build
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) $(LOWEST) build dist *.egg-info runtime/build runtime/*.egg-info
