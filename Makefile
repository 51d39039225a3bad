# Everything runs inside $(VENV). Override on the command line:
#   make test PYTHON=python3.12 VENV=/tmp/venv KVSTORE_URING=skip

PYTHON ?= python3
VENV ?= .venv
# auto: use liburing if it is here; require: fail without it; skip: never look at it.
KVSTORE_URING ?= auto
export KVSTORE_URING KVSTORE_CFLAGS

BIN := $(VENV)/bin
SETTINGS := $(VENV)/.settings
INSTALLED := $(VENV)/.installed

PY_PATHS := $(wildcard kvstore bench tests scripts)
C_SOURCES := $(filter-out kvstore/native/_native.c,$(wildcard kvstore/native/*.c))
C_HEADERS := $(wildcard kvstore/native/*.h)
C_FUZZ := $(wildcard tests/fuzz/*.c)
C_FORMATTED := $(C_SOURCES) $(C_HEADERS) $(wildcard bench/*.c tests/support/*.c tests/fuzz/*.[ch])
C_CHECK := $(CC) -std=c11 -Wall -Wextra -Wshadow -Wconversion -Werror -fsyntax-only
BUILD_INPUTS := $(C_SOURCES) $(C_HEADERS) $(wildcard kvstore/native/build.py) pyproject.toml setup.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test torture mutants check check-python check-c bench clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-8s %s\n", $$1, $$2}' Makefile

setup: $(INSTALLED) ## install what is missing and build kvstore into $(VENV)

demo: setup ## a guided run of the store
	@$(BIN)/python -m kvstore demo

# The other interpreters run beside the main one, which runs what takes long as well.
test: check ## all checks, then the tests on every Python found
	@$(BIN)/python scripts/test_interpreters.py & others=$$!; \
	    $(BIN)/python -m pytest; status=$$?; \
	    wait $$others && exit $$status

torture: $(VENV)/.fuzz ## an hour of crashes, power cuts, faults and fuzzing; resumes; TORTURE="..." is passed on
	@$(BIN)/python -m tests.torture $(TORTURE)

# Each breaks one line of the code, in a copy; a test has to notice. Two at a time.
mutants: setup ## are the tests able to fail? MUTANTS="words" chooses
	@$(BIN)/python -m tests.mutants $(MUTANTS)

check: check-python check-c ## lint, types, layers, C warnings

check-python: setup
	@$(BIN)/ruff check $(PY_PATHS) setup.py
	@$(BIN)/ruff format --check $(PY_PATHS) setup.py
	@$(BIN)/mypy --strict $(PY_PATHS)
	@$(BIN)/lint-imports --no-logo

# Both faces of the C code are compiled; headers of liburing are not ours to warn about.
check-c: setup
ifneq ($(C_SOURCES),)
	@$(BIN)/clang-format --dry-run -Werror $(C_FORMATTED)
	@$(C_CHECK) $(C_SOURCES)
	@$(C_CHECK) -Ikvstore/native $(C_FUZZ)
	@if [ "$$KVSTORE_URING" != skip ] && pkg-config --exists liburing 2>/dev/null; then \
	    $(C_CHECK) -DKV_HAVE_URING \
	        $$(pkg-config --cflags liburing | sed 's/-I/-isystem /g') $(C_SOURCES); \
	fi
endif

bench: $(VENV)/.bench ## compare with other stores; BENCH="..." is passed on
	@$(BIN)/python -m bench $(BENCH)

$(VENV)/.bench: $(INSTALLED)
	@$(BIN)/python -m pip install -q -e '.[bench]'
	@touch $@

# Where there is no atheris, the Python targets mutate at random.
$(VENV)/.fuzz: $(INSTALLED)
	@$(BIN)/python -m pip install -q -e '.[fuzz]' || echo "atheris could not be installed"
	@touch $@

clean: ## remove the environments and all that was built
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	rm -rf .hypothesis .torture kvstore/native/_native.c kvstore/native/_native*.so .venv-3.*
	find $(PY_PATHS) -name __pycache__ -prune -exec rm -rf {} +
	if [ -f $(VENV)/pyvenv.cfg ]; then rm -rf $(VENV); fi

# Changes only when a setting does, so that the next rule sees changes which no file shows.
$(SETTINGS): FORCE
	@mkdir -p $(VENV)
	@settings="$(PYTHON) $$KVSTORE_URING $$KVSTORE_CFLAGS"; \
	    [ "$$(cat $@ 2>/dev/null)" = "$$settings" ] || echo "$$settings" > $@

$(INSTALLED): $(SETTINGS) $(BUILD_INPUTS)
	@sh scripts/setup.sh $(PYTHON) $(VENV)
	@$(BIN)/python -m pip install -q -e '.[cli,test,lint]'
	@touch $@
