# `make` lists the targets. `make book` and `make test` do all the set-up they need.
PYTHON ?= python3
PRESET ?= quick
ARGS ?=
UV ?= uv
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A process for each core, for which one thread is then enough; each takes about 2 GB.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
NOTEBOOKS := $(sort $(notdir $(basename $(wildcard notebooks/*.ipynb))))
# `NAME="folder"` for a shell, relative to here: kernels run in other folders.
absolute = $(if $($(1)),$(1)="$(if $(filter /% ~%,$($(1))),,$(CURDIR)/)$($(1))")
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore
export PIP_NO_INPUT = 1

.DEFAULT_GOAL := help
.PHONY: help setup book pdf test test-all lint lab lock picture clean $(NOTEBOOKS)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@printf '  make %-10s %s\n' $(foreach name,$(NOTEBOOKS),$(name) 'run notebooks/$(name).ipynb into book/_run')
	@echo 'Settings: PRESET=smoke|quick|cpu|paper  ARGS="-p way 20" (a notebook) or "-k dynamics" (test)  PYTHON=python3.12'

setup: $(STAMP) ## make .venv with everything that the book and the tests need
	@echo "$(VENV) is ready: $$($(BIN)/python --version)"

$(STAMP): requirements.lock pyproject.toml | $(BIN)/pip
	@echo "installing requirements.lock into $(VENV): minutes and about 6 GB, the first time"
	@$(BIN)/python -m pip install --quiet -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $(STAMP)

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' 2>/dev/null || \
		{ echo "make: PYTHON=$(PYTHON) is not Python 3.11.4 or newer: name one, as in make setup PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot make virtual environments: install its venv module (python3-venv on Debian)" >&2; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV)

book: $(STAMP) ## run the notebooks (PRESET=quick) and build book/_build/html
	$(BIN)/python book/build.py --preset $(PRESET)

pdf: $(STAMP) ## print the built book as one file, book/_build/book.pdf (needs Chromium)
	$(BIN)/python book/pdf.py

test: $(STAMP) ## run the tests
	$(PYTEST) $(ARGS)

test-all: $(STAMP) ## run every trial of reliability, of which `make test` runs a sample, and keep their counts
	$(PYTEST) tests/reliability --every-trial $(ARGS)

lint: $(STAMP) ## check style with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lab: $(STAMP) ## open JupyterLab on the notebooks
	$(call absolute,MSMETA_DATA) $(call absolute,MSMETA_RESULTS) $(BIN)/jupyter lab --notebook-dir=notebooks

lock: ## pin requirements.lock anew from pyproject.toml, with the hash of each file (needs uv)
	@command -v $(UV) >/dev/null || { echo "make: UV=$(UV) is not there: pip install uv" >&2; exit 2; }
	$(UV) pip compile --quiet --universal --python-version 3.11 --extra book --extra sweep --extra test --no-emit-index-url --generate-hashes \
		--custom-compile-command "make lock" pyproject.toml -o requirements.lock

picture: $(STAMP) ## draw README's picture anew from results/
	$(BIN)/python -c 'from msmeta.report import few_shot; few_shot.readme_picture("book/_static/learning_curves.png")'

clean: ## remove the built book and caches; data, results and .venv stay
	rm -rf book/_build book/_run build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(NOTEBOOKS): $(STAMP)
	$(BIN)/python book/build.py --preset $(PRESET) --notebook $@ $(ARGS)
