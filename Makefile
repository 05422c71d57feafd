# Works from any folder (make -C DIR demo), twice in a row, and beside another copy. Needs Python 3.11+ only.
here := $(dir $(lastword $(MAKEFILE_LIST)))
export PYTHON
SEED ?= 20261123
export FIONA_TEST_SEED = $(SEED)

.PHONY: help env demo test test-full bench check lock

help:
	@echo "make env        the environment in .venv; .venv/bin/fiona is the command"
	@echo "make demo       the whole way on loopback; ARGS=--exit stops when delivered"
	@echo "make test       checks and tests; ARGS=... goes to pytest"
	@echo "make test-full  the long tests too, with SEED=$(SEED)"
	@echo "make check      ruff, mypy, import-linter"
	@echo "make bench      benchmarks"
	@echo "make lock       requirements.lock anew (needs uv)"

env:
	@"$(here)scripts/env"

demo: env
	@"$(here).venv/bin/fiona" demo $(ARGS)

check: env
	@"$(here)scripts/check"

test: env
	@"$(here)scripts/peers"
	@"$(here)scripts/check"
	@"$(here)scripts/test" $(ARGS)

test-full: env
	@"$(here)scripts/peers"
	@"$(here)scripts/check"
	@FIONA_TEST_FULL=1 "$(here)scripts/test" --hypothesis-seed=$(SEED) $(ARGS)

bench: env
	@test -d "$(here)benchmarks" || { echo "fiona: no benchmarks yet" >&2; exit 1; }
	@cd "$(here)." && .venv/bin/python -m benchmarks $(ARGS)

lock:
	@"$(here)scripts/lock" $(ARGS)
