# Two commands matter: `make serve` and `make test`. Both make their own environment in .venv.

PYTHON ?= python3
VENV ?= .venv
# A CPU build of torch is enough. On Linux the default index carries the CUDA build (several GB);
# set TORCH_INDEX_URL to PyTorch's CPU wheel index to get the small one.
TORCH ?= torch==2.13.*
TORCH_INDEX_URL ?=
ARGS ?=

PACKAGES := engine ensemble_builder server clients
PYTHON_FILES := $(PACKAGES) tests
# The editable install links file by file (so that mypy can follow it): a new file asks for a new install.
FILE_LIST := $(shell find $(PACKAGES) -name '*.py' -not -path '*/__pycache__/*' | sort | cat - pyproject.toml | cksum | cut -d' ' -f1)
INSTALLED := $(VENV)/.installed-$(FILE_LIST)
DEVELOPMENT := $(VENV)/.development-$(FILE_LIST)

.PHONY: help serve test test-slow check format demo clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

serve: $(INSTALLED)  ## start the daemon on the embedded demo ensemble (ARGS="--port 9000 ...")
	$(VENV)/bin/flexquant-serve --model demo $(ARGS)

test: $(DEVELOPMENT)  ## run the test suite (ARGS="-k name ...")
	$(VENV)/bin/pytest -m "not slow" $(ARGS)

test-slow: $(DEVELOPMENT)  ## run the tests that take minutes
	$(VENV)/bin/pytest -m slow $(ARGS)

check: $(DEVELOPMENT)  ## formatting, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy $(addprefix -p flexquant.,$(PACKAGES))
	$(VENV)/bin/mypy tests

format: $(DEVELOPMENT)  ## format the code and mend what lint can mend
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

demo: $(INSTALLED)  ## rebuild the embedded demo ensemble from the committed checkpoint and texts
	$(VENV)/bin/flexquant-build tests/assets/docs-llama --levels 8,3 --out build/demo \
	  --calibration tests/assets/text/calibration.txt --search-text tests/assets/text/search.txt $(ARGS)
	rm -rf server/demo
	cp -r build/demo server/demo

clean:  ## remove the environment and everything that was generated
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$(TORCH)"

$(INSTALLED): $(VENV)/bin/python
	rm -f $(VENV)/.installed-*
	$(VENV)/bin/pip install --quiet --editable . --config-settings editable_mode=strict
	touch $@

$(DEVELOPMENT): $(INSTALLED)
	rm -f $(VENV)/.development-*
	$(VENV)/bin/pip install --quiet --group dev
	touch $@
