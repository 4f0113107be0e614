# What a person types. `make` lists it; PYTHON chooses the interpreter that .venv is made from.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
LOCAL := --no-build-isolation --no-deps --config-settings=build-dir=build/py .
SOURCES := meson.build meson.options $(shell find native src \( -name __pycache__ -o -name corpus \) -prune -o -print)
C_FILES := find native -name '*.[ch]' -exec clang-format

# Addresses that the sanitizers of older compilers expect, where the kernel's randomisation is wider.
FIXED_ADDRESSES := $(shell setarch -R true 2>/dev/null && echo "--wrapper='setarch -R'")
SETUP_asan := -Dbuildtype=debugoptimized -Dwerror=false -Db_lundef=false -Db_sanitize=address,undefined
SETUP_tsan := -Dc_args=-Wno-tsan -Dbuildtype=debugoptimized -Dwerror=false -Db_lundef=false -Db_sanitize=thread
SETUP_fuzz := $(SETUP_asan) -Dfuzz=true -Dc_args='-fsanitize=fuzzer-no-link -fno-sanitize-recover=undefined'
TEST_asan := --timeout-multiplier=4 $(FIXED_ADDRESSES)
TEST_tsan := --timeout-multiplier=4 $(FIXED_ADDRESSES)

# Seconds for each target of `make fuzz`.
TIME ?= 60
MERGE_fuzz-merge := --merge

.PHONY: help venv bench test test-verbs soak test-c asan tsan fuzz fuzz-merge lint format wheel model bench-peers bench-verbs bench-ofi clean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z -]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 19

venv: $(VENV)/.installed ## install pgctl and what it needs into .venv
bench: venv ## measure writes between two local processes
	pgctl bench write

test: venv test-c asan tsan ## run every test: C, C under sanitizers, Python, those of verbs
	PGCTL_REQUIRE='$(PGCTL_REQUIRE),ofi:tcp,ofi:shm,ofi:fake_efa' pytest -m 'not rdma'
	$(VENV)/bin/python tools/verbs_tests.py || [ $$? = 77 ] # it has said why

test-verbs: venv build/test-c/build.ninja ## run the tests that need an RDMA device: here, or in a lab
	meson compile -C build/test-c test_verbs test_verbs_wake
	$(VENV)/bin/python tools/verbs_tests.py

soak: venv ## run random programs: make soak TIME=600 [SEED=n] [IMPAIR=...] [OVER=tcp] [OVER=fake_efa FLAP=0.1]
	$(VENV)/bin/python tests/model/soak.py --time $(or $(TIME),60) \
		$(if $(SEED),--seed $(SEED)) --over $(or $(OVER),shm) --flap $(or $(FLAP),0) --impair '$(IMPAIR)'

test-c asan tsan: %: build/%/build.ninja ## run the C tests: plain, under ASan and UBSan, under TSan
	meson test -C build/$* --print-errorlogs $(TEST_$*)

fuzz fuzz-merge: build/fuzz/build.ninja ## fuzz, TIME=seconds a target; add what was found to the corpus
	meson compile -C build/fuzz
	$(VENV)/bin/python tools/fuzz.py --time $(TIME) $(MERGE_$@)

lint: $(VENV)/.deps ## check style and types
	ruff check src tests tools examples
	ruff format --check src tests tools examples
	mypy
	$(C_FILES) --dry-run -Werror {} +

format: $(VENV)/.deps ## rewrite the sources in the house style
	ruff check --fix-only --quiet src tests tools examples
	ruff format src tests tools examples
	$(C_FILES) -i {} +

wheel: $(VENV)/.deps ## build a wheel for other machines, in dist/
	rm -rf build/wheel && find src -name __pycache__ -exec rm -rf {} +
	$(PIP) wheel --wheel-dir build/wheel $(LOCAL)
	auditwheel repair --wheel-dir dist build/wheel/*.whl

model: $(VENV)/.deps ## search the model of failover for a run that goes wrong
	$(VENV)/bin/python tools/check_model.py

bench-peers: venv ## measure the programs that pgctl is compared with
	$(VENV)/bin/python tools/bench_peers.py

bench-verbs: venv ## measure verbs beside perftest, on RDMA devices: here, or in a lab
	$(VENV)/bin/python tools/bench_verbs.py

bench-ofi: venv build/test-c/build.ninja ## measure ofi beside a bare loop over libfabric
	meson compile -C build/test-c ofi_raw
	$(VENV)/bin/python tools/bench_ofi.py

clean: ## remove everything that was built
	rm -rf build dist $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache

# The slow part, when a dependency changes.
$(VENV)/.deps: pyproject.toml system-packages.txt
	tools/system-packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"pgctl needs Python 3.11 or newer: make PYTHON=...")'
	[ -x $(VENV)/bin/pip ] || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python tools/requirements.py pyproject.toml > $(VENV)/requirements.txt
	$(PIP) install -r $(VENV)/requirements.txt
	rm -rf build
	touch $@

# The fast part, when a source changes.
$(VENV)/.installed: $(VENV)/.deps $(SOURCES)
	$(PIP) install $(LOCAL)
	touch $@

build/fuzz/build.ninja: | $(VENV)/.deps
	tools/system-packages native/fuzz/system-packages.txt
	CC=clang meson setup build/fuzz $(SETUP_fuzz)

build/%/build.ninja: | $(VENV)/.deps
	meson setup build/$* $(SETUP_$*)
