# Two commands matter: `make demo` and `make test`. Each makes the environment that it needs from a hashed lock.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo check test test-vllm test-picker test-cli test-drills bench-routing bench-load bench-swap lab lock references docs clean
.DELETE_ON_ERROR:

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PROFILE ?= sandbox
VENV := .venv
LAB := .venv-lab
BIN := $(VENV)/bin
ENGINE := lib/llmd_sandbox/images/vllm_cpu
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.run ## start a sandbox with Pattern 1, run notebooks 01 to 07 on it, stop it (PROFILE=sandbox-with-pattern2, sandbox-newest: others)
	@PATH="$(CURDIR)/$(BIN):$$PATH" llmd-sandbox run $(if $(findstring pattern2,$(PROFILE)),--pattern2) \
		$(if $(findstring newest,$(PROFILE)),--newest) -- llmd-runbook run $(PROFILE)

check: $(VENV)/.dev ## style, types, layers, notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/notebooks

test: $(VENV)/.dev ## unit tests, the whole migration on a sandbox, and the notebooks against their stored outputs
	@$(BIN)/llmd-sandbox build  # outside the tests, whose time is limited
# Two files at a time, in the order of their names: those that wait for sandboxes come first, units fill in.
# The picker is the sandbox's own, for every layout, whatever the other lanes are given.
	env -u LLMD_SANDBOX_EPP $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25

test-vllm: $(VENV)/.dev ## the simulator against the real vLLM on CPU, and the notebooks on it (VLLM=contract or VLLM=notebooks: a part of it)
	@$(BIN)/llmd-sandbox build --engine vllm
# Two runs of pytest: the engines that are compared end with the first.
ifneq ($(VLLM),notebooks)
	$(BIN)/pytest -m vllm tests/vllm/test_contract.py tests/vllm/test_prefix_cache.py
endif
ifneq ($(VLLM),contract)
	LLMD_EVERYTHING_REAL=docs/everything-real.md $(BIN)/pytest -m vllm --capture=no tests/vllm/test_notebooks.py
endif

test-picker: $(VENV)/.dev ## stages 01 to 05 through a real endpoint picker: LLMD_SANDBOX_EPP=/path/to/epp
	@$(BIN)/llmd-sandbox build --picker
	$(BIN)/pytest -m picker tests/picker

test-cli: $(VENV)/.dev ## helm 3, helm 4, helmfile, kubectl, on a sandbox (CLI=without-helm-diff or CLI=helm-diff: a part of it)
	@$(BIN)/llmd-sandbox build --tools $(if $(filter without-helm-diff,$(CLI)),,--helm-diff)
	env -u LLMD_SANDBOX_EPP $(BIN)/pytest -m "cli$(if $(filter without-helm-diff,$(CLI)), and not helm_diff)$(if $(filter helm-diff,$(CLI)), and helm_diff)" tests/cli

test-drills: $(VENV)/.dev ## every fault during every changing step, and a kill around every call; writes docs/drills.md
	@$(BIN)/llmd-sandbox build
	$(BIN)/python -m tests.drills docs/drills.md

bench-routing: $(VENV)/.dev ## decisions per second of the reference model; who passes the affinity test, of 1,000 runs
	$(BIN)/python -m benchmarks.routing

bench-load: $(VENV)/.dev ## the load generator against inference-perf, guidellm, aiperf (installs them once, 7 GB; Python 3.12)
	$(BIN)/python -m benchmarks.load

bench-swap: $(VENV)/.dev ## what clients lose in both ways to swap, with the gateway 30 s behind; writes docs/swap-*.png
	@PATH="$(CURDIR)/$(BIN):$$PATH" llmd-sandbox run --name bench-swap --startup-scale 0.02 --route-lag-s 1500 -- \
		python -m benchmarks.swap

lab: $(LAB)/.lab ## JupyterLab on the notebooks, with a sandbox running
	@PATH="$(CURDIR)/$(LAB)/bin:$$PATH" llmd-sandbox run -- jupyter lab --notebook-dir=notebooks

lock: $(VENV)/.dev ## resolve the locks anew from pyproject.toml
	@for part in "requirements.lock:--extra sandbox --extra build" \
		"requirements-dev.lock:--extra dev -c requirements.lock" \
		"requirements-lab.lock:--extra sandbox --extra build --extra lab -c requirements.lock"; do \
		$(BIN)/uv pip compile pyproject.toml $${part#*:} --universal --python-version 3.11 --generate-hashes --quiet \
			--no-annotate --no-header --no-emit-index-url --output-file $${part%%:*} || exit 1; done
	@cd $(ENGINE) && $(CURDIR)/$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet \
		--no-annotate --no-header --no-emit-index-url --output-file requirements.lock

references: $(VENV)/.dev ## execute the notebooks on a sandbox and store their outputs, which nbval compares
	@PATH="$(CURDIR)/$(BIN):$$PATH" llmd-sandbox run --name references -- sh -ec \
		'for notebook in notebooks/0*.ipynb; do jupyter execute --inplace --KernelManager.transport_encryption=auto $$notebook; done'

docs: $(VENV)/.run ## write the generated parts of the README and docs/
	$(BIN)/python -m llmd_runbook.profile_table
	$(BIN)/python -m llmd_runbook.claims_table
	$(BIN)/python -m tests.vllm.differences
	$(BIN)/python -m tests.end_to_end.checks_table
	$(BIN)/python -m tests.notebooks.pictures

clean: ## remove the environments; records under outputs/ stay
	rm -rf $(VENV) $(LAB)

define venv
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and none was found; name one: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	@$(1)/bin/pip install --require-hashes -r $(2) || { \
		echo "The packages of $(2) could not be installed: see above. Without a network, point pip at a mirror (PIP_INDEX_URL) or a folder of wheels (PIP_FIND_LINKS, PIP_NO_INDEX=1)." >&2; exit 2; }
endef

$(VENV)/.run: requirements.lock pyproject.toml
	$(call venv,$(VENV),requirements.lock)
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@$(BIN)/pip install --require-hashes -r requirements-dev.lock
	@touch $@

$(LAB)/.lab: requirements-lab.lock pyproject.toml
	$(call venv,$(LAB),requirements-lab.lock)
	@$(LAB)/bin/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
