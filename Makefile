PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(if $(shell $(p) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(p))))
PY := .venv/bin/python
READY := .venv/.ready

.PHONY: demo test test-all gpu-check lint clean
.DEFAULT_GOAL := test

# One environment with the exact versions of requirements.lock; made again when those or the project's own change.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed; pass PYTHON=/path/to/python"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

demo: $(READY)
	$(PY) -m experiments.ae_ot --dataset digits --out runs/demo --overwrite

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

test: lint
	$(PY) -m pytest -n 2

test-all: lint
	$(PY) -m pytest -n 2 -m ""

# Where Python's own jax drives the accelerator already, run `python -m experiments.gpu_check` with it instead.
gpu-check: $(READY)
	$(PY) -m experiments.gpu_check

clean:
	rm -rf .venv runs dist build *.egg-info
