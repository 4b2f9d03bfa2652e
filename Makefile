# Two commands do everything: `make demo` and `make test`. Each sets itself up first.

VENV  := .venv
READY := $(VENV)/.ready
BIN   := $(VENV)/bin
LOCK  := deploy/requirements/dev.txt

.PHONY: help demo test test-postgres faults plan-faults view-faults lint check bench clean lock

help:
	@echo "make demo    one change travels the whole loop on a real PostgreSQL and a real Kafka"
	@echo "make test    the tests, on the same servers (PYTEST_ARGS='-k fold' to choose)"
	@echo "make test-postgres PG=15   what depends on the version of PostgreSQL, on 15, 16, 17 or 18"
	@echo "make faults  every fault of the change stream, again and again (FAULTS_ARGS='--repeats 5 --only broker')"
	@echo "make plan-faults   kills at every step of a run, in every mode of the model (PLAN_FAULTS_ARGS='--repeats 2 --only sink')"
	@echo "make view-faults   every fault of the views, of rebuilds and of retries (FAULTS_ARGS='--repeats 5 --only dlq')"
	@echo "make lint    ruff and mypy --strict"
	@echo "make bench   what can be measured (NAME=latency to run one)"
	@echo "make lock    pin the requirements anew"
	@echo "make clean   remove the virtual environment and local state"

demo: $(READY)
	@$(BIN)/projector demo $(DEMO_ARGS)

# Half of its time a test waits. Each process has a PostgreSQL and a Kafka of its own; with WORKERS=0 there is only one.
WORKERS := 2
PYTEST  := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
test: $(READY)
	@$(PYTEST) $(PYTEST_ARGS)

# No test of the whole, and none that the version cannot change: those run on the wheel's.
ANY_POSTGRES := $(patsubst %,tests/cdc/test_%.py,confirmation fill_under_load pgoutput progress recovery rows timeline topics)
OF_POSTGRES := $(filter-out $(ANY_POSTGRES),$(wildcard tests/cdc/test_*.py)) tests/cli/test_slot.py tests/cli/test_wal_level.py tests/embedded/test_versions.py \
	$(patsubst %,tests/planner/test_%.py,ledger transitions retention restore) $(patsubst %,tests/views/test_%.py,sql_fold tenants erasure dead_letters engine)
test-postgres: $(READY)
	@test -n "$(PG)" || { echo "say which: make test-postgres PG=15"; exit 2; }
	@PROJECTOR_PG_VERSION=$(PG) $(PYTEST) $(OF_POSTGRES) $(PYTEST_ARGS)

faults: $(READY)
	@$(BIN)/python -m tests.faults $(FAULTS_ARGS)

plan-faults: $(READY)
	@$(BIN)/python -m tests.plan_faults $(PLAN_FAULTS_ARGS)

view-faults: $(READY)
	@$(BIN)/python -m tests.view_faults $(FAULTS_ARGS)

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
	@uv pip compile -q --generate-hashes --no-header --universal --python-version 3.11 --extra otel pyproject.toml -o deploy/requirements/run.txt
	@uv pip compile -q --generate-hashes --no-header --universal --python-version 3.11 --extra dev pyproject.toml -o $(LOCK)
	@echo 'setuptools>=80' | uv pip compile -q --generate-hashes --no-header --universal --python-version 3.11 - -o deploy/requirements/build.txt

clean:
	rm -rf $(VENV) .projector
