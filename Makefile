# make demo       environment, install, then train and test Cascade Mask R-CNN on the embedded data
# make demo-seg   the same for UperNet
# make demo-pretrain  pre-trains on unlabelled shapes, then trains the embedded detector from that
# make test       environment, install, every test that is not slow
# make test-slow  the slow ones too
# make bench      speed and memory beside other implementations, into docs/performance.md
# make lint       ruff and mypy
# make format     what ruff can fix, and its format
# make docs       the documentation site in site/; read it with `python -m http.server -d site`
# make gpu        the first ten minutes on a machine with GPUs: what works, a table and a report
# make clean      removes .venv, the site, and the embedded data with its runs
# PYTHON=/path/to/python makes the environment with another Python than the first suitable one.
# The first Python of a supported version on the PATH (3.14 has no wheels of numpy 2.2, see setup.py).
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
    $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null && \
    echo $$p && break; done)
# Tests at a time, a core each.
WORKERS := $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n > 8 ? 8 : n)))
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo demo-seg demo-pretrain test test-slow bench gpu lint format docs clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	@$(BIN)/python tools/demo.py detection

demo-seg: $(INSTALLED)
	@$(BIN)/python tools/demo.py segmentation

demo-pretrain: $(INSTALLED)
	@$(BIN)/python tools/demo.py pretraining

test: $(INSTALLED)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-slow: $(INSTALLED)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

bench: $(INSTALLED)
	@$(BIN)/python -m benchmarks

gpu: $(INSTALLED)
	@$(BIN)/python -m benchmarks --first-gpu

lint: $(INSTALLED)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(INSTALLED)
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

docs: $(INSTALLED)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo 'site/index.html'

$(INSTALLED): setup.py pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || \
	    { echo 'error: no Python 3.10 to 3.13 on the PATH; install one, or make PYTHON=/path/to/python' >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	    { echo 'error: no virtual environment could be made; on Debian: apt-get install python3-venv' >&2; exit 2; }
	@echo 'Installing into .venv: 5 GB, about 5 minutes'
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]' || \
	    { echo 'error: the install failed; check network and disk (8 GB free), then make again' >&2; exit 2; }
	@touch $@

clean:
	rm -rf .venv site data/shapes data/shapes-unlabelled work_dirs/*_shapes
