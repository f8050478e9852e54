PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(if $(shell $(p) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(p))))
PY := .venv/bin/python
READY := .venv/.ready
DOCS := .venv/.docs

.PHONY: demo test test-all test-oldest test-newest test-rounded gpu-check docs docs-serve bench lint clean
.DEFAULT_GOAL := test

# One environment with the exact versions of requirements.lock; made again when those or the project's own change.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed; pass PYTHON=/path/to/python"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv .venv
	@echo "Installing the packages of requirements.lock into .venv, 1.5 GB: minutes without a word, the first time only."
	$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

demo: $(READY)
	$(PY) -m experiments.ae_ot --dataset digits --out runs/demo --overwrite

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

test: lint
	@echo "The quick tests: six to twelve minutes on two cores, half of it when run again."
	$(PY) -m pytest -n 2 --dist worksteal --durations 10

test-all: lint
	$(PY) -m pytest -n 2 --dist worksteal --durations 10 -m ""

# The oldest and the newest jax that pyproject.toml allows, each in an environment of its own, beside what requirements.lock
# has of all else but flax, which follows jax. TESTS chooses among the quick tests: make test-newest TESTS=tests/ot/sinkhorn
PYTHON312 ?= $(firstword $(foreach p,python3.12 python3.13 python3,$(if $(shell $(p) -c 'import sys; print(sys.version_info >= (3, 12) or "")' 2>/dev/null),$(p))))
JAX_oldest := 0.10.2
JAX_newest := 0.12.*
PYTHON_oldest = $(PYTHON)
PYTHON_newest = $(PYTHON312)
WANTED_oldest := Python 3.11 or newer; pass PYTHON
WANTED_newest := Python 3.12 or newer; pass PYTHON312

.venv-%/.ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON_$*)" || { echo "jax $(JAX_$*) needs $(WANTED_$*)=/path/to/python"; exit 1; }
	$(PYTHON_$*) -m venv --clear .venv-$*
	grep -vE '^(jax|jaxlib|flax)==' requirements.lock > .venv-$*/constraints.txt
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv-$*/constraints.txt "jax==$(JAX_$*)" --editable ".[test]"
	@touch $@

test-oldest: .venv-oldest/.ready
test-newest: .venv-newest/.ready
test-oldest test-newest: test-%:
	.venv-$*/bin/python -m pytest -n 2 --dist worksteal --durations 10 $(TESTS)

# The core with the default products of an accelerator, whose factors have the 7 bits of bfloat16: it makes none of them.
test-rounded: $(READY)
	$(PY) -m pytest -n 2 --dist worksteal --product-bits 7 tests/ot tests/theory

# By the first Python whose jax drives an accelerator: that of PYTHON, of the shell, or of .venv, which it is made for otherwise.
gpu-check:
	@for python in "$(PYTHON)" python .venv/bin/python; do \
	  if "$$python" -c "import sys, jax; sys.exit(jax.default_backend() == 'cpu')" 2>/dev/null; then \
	    echo "$$python, whose jax drives an accelerator"; exec "$$python" -m experiments.gpu_check; fi; done; \
	  $(MAKE) $(READY) && $(PY) -m experiments.gpu_check

# The documentation site, in site/: its tools have a lock of their own and are installed when it is first built.
$(DOCS): $(READY) requirements-docs.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements-docs.lock
	@touch $(DOCS)

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

docs-serve: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs serve

# Every benchmark in turn, more than an hour on two quiet cores; DATA is the folder of MNIST, CIFAR-10 and feature weights.
DATA ?= $(OTGEN_DATA)
bench: $(READY)
	$(PY) -m experiments.bench.latent
	$(PY) -m experiments.bench.gaussian
	$(PY) -m experiments.bench.first_call
	$(PY) -m experiments.bench.exact
	$(PY) -m experiments.bench.sinkhorn
	$(PY) -m experiments.bench.semidiscrete $(if $(DATA),--data-dir $(DATA),--parts table eta rate memory)
	$(PY) -m experiments.bench.train $(if $(DATA),--data-dir $(DATA))
	$(if $(DATA),$(PY) -m experiments.bench.features --data-dir $(DATA),@echo "bench.features needs data: make bench DATA=folder")
	$(if $(DATA),$(PY) -m experiments.bench.networks --data-dir $(DATA),@echo "bench.networks needs data: make bench DATA=folder")
	$(if $(DATA),$(PY) -m experiments.bench.codec --data-dir $(DATA),@echo "bench.codec needs data: make bench DATA=folder")

clean:
	rm -rf .venv .venv-* .jax_cache runs dist build site *.egg-info
