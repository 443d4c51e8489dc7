# Every target sets itself up: a checkout needs only make and Python 3.11 or later.
#
#   make test     lint, types, import rules, tests, and the built wheel in a clean environment
#   make demo     index examples/docs and ask ten questions
#   make demo-serve  the same in the browser: http://127.0.0.1:8080
#   make slow     the tests left out of `make test`
#   make test-lowest  the tests with the lowest versions that pyproject.toml allows
#   make format   what ruff can mend by itself
#   make docs     the pages of docs/ as a site in build/site
#   make peers    the environment of the libraries we are measured against
#   make clean    remove everything made here
#
# PYTHON=python3.12 chooses the interpreter; PIP_ARGS is passed to every `pip install`, as in
# PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" for a small CPU-only torch,
# which the tests need.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
PIP_ARGS ?=
PIP = -m pip --disable-pip-version-check install --quiet -c constraints.txt $(PIP_ARGS)
RUN = .venv/bin/python
# A process per core, each with one thread of its own.
PYTEST = -m pytest -q -n auto --maxprocesses 8
CHECKED = src tests benchmarks examples tools

.PHONY: test lint types contracts unit slow test-lowest wheel demo demo-serve docs format peers clean
.DELETE_ON_ERROR:

test: lint types contracts unit wheel
	@echo "make test: all passed"

# A stamp for each environment, made anew when the project's dependencies may have changed.
.venv/run.stamp: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later found; set PYTHON=" >&2; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) $(PIP) --upgrade "pip>=25.1"
	$(RUN) $(PIP) --editable .
	@touch $@

.venv/dev.stamp: .venv/run.stamp
	$(RUN) $(PIP) --group dev
	@touch $@

.venv-wheel/run.stamp: pyproject.toml constraints.txt
	rm -rf .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python $(PIP) --upgrade "pip>=25.1"
	.venv-wheel/bin/python $(PIP) .
	@touch $@

.venv-peers/run.stamp: benchmarks/requirements-peers.txt constraints.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python $(PIP) -r benchmarks/requirements-peers.txt
	@touch $@

lint: .venv/dev.stamp
	$(RUN) -m ruff check $(CHECKED)
	$(RUN) -m ruff format --check $(CHECKED)

types: .venv/dev.stamp
	$(RUN) -m mypy $(CHECKED)

contracts: .venv/dev.stamp
	.venv/bin/lint-imports --no-logo

unit: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(RUN) $(PYTEST) -m "not slow"

slow: .venv/dev.stamp
	$(RUN) -m pytest -q -m slow

.venv-lowest/run.stamp: pyproject.toml constraints.txt tools/lowest.py
	rm -rf .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python $(PIP) --upgrade "pip>=25.1"
	.venv-lowest/bin/python tools/lowest.py | sort -u > .venv-lowest/lowest.txt
	.venv-lowest/bin/python $(PIP) -c .venv-lowest/lowest.txt --editable . --group tests
	@touch $@

test-lowest: .venv-lowest/run.stamp
	OMP_NUM_THREADS=1 .venv-lowest/bin/python $(PYTEST) -m "not slow"

# The wheel is installed alone, with its dependencies only, where the checkout cannot be seen.
wheel: .venv/dev.stamp .venv-wheel/run.stamp
	rm -rf build/wheel
	$(RUN) -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir build/wheel .
	.venv-wheel/bin/python $(PIP) --no-deps --force-reinstall build/wheel/tercet-*.whl
	$(RUN) tools/smoke.py .venv-wheel/bin

demo: .venv/run.stamp
	rm -rf build/demo-index  # one of an older bundled model would be refused
	$(RUN) examples/demo.py

.venv/serve.stamp: .venv/run.stamp
	$(RUN) $(PIP) --editable ".[serve]"
	@touch $@

demo-serve: .venv/serve.stamp
	test -d build/demo-index || .venv/bin/tercet index examples/docs --to build/demo-index
	.venv/bin/tercet serve build/demo-index

.venv-docs/run.stamp: pyproject.toml constraints.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python $(PIP) --upgrade "pip>=25.1"
	.venv-docs/bin/python $(PIP) --group docs
	@touch $@

docs: .venv-docs/run.stamp
	PYTHONPATH=src .venv-docs/bin/zensical build -f zensical.toml

format: .venv/dev.stamp
	$(RUN) -m ruff check --fix $(CHECKED)
	$(RUN) -m ruff format $(CHECKED)

peers: .venv-peers/run.stamp

clean:
	rm -rf .venv .venv-wheel .venv-docs .venv-peers .venv-lowest build dist .mypy_cache .ruff_cache .pytest_cache \
		.import_linter_cache .hypothesis
	find src tests benchmarks examples tools -name __pycache__ -type d -prune -exec rm -rf {} +
