# Two commands do everything: `make demo` and `make test`. Each sets itself up first.

VENV  := .venv
READY := $(VENV)/.ready
BIN   := $(VENV)/bin
LOCK  := deploy/requirements/dev.txt

.PHONY: help demo test lint check bench clean lock

help:
	@echo "make demo    one change travels the whole loop on a real PostgreSQL and a real Kafka"
	@echo "make test    the tests, on the same servers (PYTEST_ARGS='-k fold' to choose)"
	@echo "make lint    ruff and mypy --strict"
	@echo "make bench   what can be measured (NAME=latency to run one)"
	@echo "make lock    pin the requirements anew"
	@echo "make clean   remove the virtual environment and local state"

demo: $(READY)
	@$(BIN)/projector demo $(DEMO_ARGS)

test: $(READY)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY)
	@$(BIN)/python -m bench $(NAME)

$(READY): pyproject.toml $(LOCK) deploy/setup
	@deploy/setup $(VENV)
	@touch $@

# Versions and hashes only: no index address belongs in the repository.
lock:
	@uv pip compile -q --generate-hashes --no-header --universal --python-version 3.11 pyproject.toml -o deploy/requirements/run.txt
	@uv pip compile -q --generate-hashes --no-header --universal --python-version 3.11 --extra dev pyproject.toml -o $(LOCK)
	@echo 'setuptools>=80' | uv pip compile -q --generate-hashes --no-header --universal --python-version 3.11 - -o deploy/requirements/build.txt

clean:
	rm -rf $(VENV) .projector
