# Every target works on a fresh clone with Python >= 3.11 and make; the environment is made on demand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo services stack stack-demo check-boards test test-long test-stack soak lint bench proto ship clean

demo: $(READY)
	$(BIN)/echowatch demo --out echowatch-demo

# A real Kafka and InfluxDB in the foreground; their data stay in .services.
services: $(READY)
	$(BIN)/python tests/services.py run

# What docker/compose.yaml starts, without containers and on this machine only; data stay in .stack.
stack: $(READY)
	$(BIN)/python docker/stack.py

# The same with a simulated plant of 60 sensors that has been running for hours.
stack-demo: $(READY)
	$(BIN)/python docker/stack.py --folder .stack/demo --demo

# Whether Grafana's boards and alert rules ask for what the workers write.
check-boards: $(READY)
	$(BIN)/python grafana/boards.py check
	$(BIN)/python grafana/rules.py check

test: $(READY)
	$(BIN)/python -m pytest

# What takes minutes more: poison, TLS and passwords, orders of people.
test-long: $(READY)
	$(BIN)/python -m pytest -m long

# Grafana's boards and alert rules, and the whole stack, on real services.
test-stack: $(READY)
	$(BIN)/python -m pytest -m stack

# Some 20 minutes of crashes, freezes and outages; the short version is one of the tests.
soak: $(READY)
	PYTHONPATH=. $(BIN)/python tests/replayed.py
	PYTHONPATH=. $(BIN)/python tests/soak.py

lint: $(READY)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	for script in benchmarks/*.py; do PYTHONPATH=. $(BIN)/python $$script || exit 1; done

# Makes a finished run of echowatch pretrain the shipped weights: make ship RUN=DIR DATA=DIR
ship: $(READY)
	PYTHONPATH=. $(BIN)/python -m echo_model.pretrain.ship $(RUN) --data $(DATA)

# The generator of an older protobuf, in an environment of its own: its code runs on all newer ones.
proto:
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/pip install --quiet grpcio-tools==1.76.0
	.venv-proto/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. pipeline/sensor_chunk.proto
	rm -rf .venv-proto

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "echowatch needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "installing into $(VENV): PyTorch is large, this takes a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
