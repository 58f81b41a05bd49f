# Two commands matter: `make serve` and `make test`. Both make their own environment in .venv.

PYTHON ?= python3
VENV ?= .venv
E2E_VENV ?= .venv-e2e
# A CPU build of torch is enough. On Linux the default index carries the CUDA build (several GB);
# set TORCH_INDEX_URL to PyTorch's CPU wheel index to get the small one.
TORCH ?= torch==2.13.*
TORCH_INDEX_URL ?=
ARGS ?=
JOBS ?= 2

PACKAGES := engine ensemble_builder server clients
# The editable install links file by file (so that mypy can follow it): a new file asks for a new install. So does a
# change in what the native kernels are made from, the compiler included.
BUILD_INPUTS := pyproject.toml setup.py native_build.py $(sort $(wildcard engine/native/cpp/*))
FILE_LIST := $(shell { find $(PACKAGES) -name '*.py' -not -path '*/__pycache__/*' -o -path 'server/dashboard/*' | sort; \
  cksum $(BUILD_INPUTS); command -v $${CXX:-c++}; } | cksum | cut -d' ' -f1)
INSTALLED := $(VENV)/.installed-$(FILE_LIST)
DEVELOPMENT := $(VENV)/.development-$(FILE_LIST)
BENCHMARK := $(VENV)/.benchmark-$(FILE_LIST)
CLIENTS := $(E2E_VENV)/.clients-$(shell cksum pyproject.toml | cut -d' ' -f1)
NODE_CLIENT := tests/e2e/node/node_modules/.package-lock.json

.PHONY: help serve test test-slow test-e2e pictures check format docs native-test native-sanitize native-arm soak bench demo clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 17

serve: $(INSTALLED)  ## start the daemon on the embedded demo ensemble (ARGS="--port 9000 ...")
	$(VENV)/bin/flexquant-serve --model demo $(ARGS)

# Tests of the real daemon measure memory and time: they have the machine to themselves. Exit code 5: no test was chosen.
test: $(DEVELOPMENT)  ## run the test suite (ARGS="-k name ...")
	$(VENV)/bin/pytest -m "not slow and not e2e" --numprocesses $(JOBS) --dist loadfile $(ARGS) || test $$? -eq 5
	$(VENV)/bin/pytest -m "e2e and not slow" $(ARGS) || test $$? -eq 5

test-slow: $(DEVELOPMENT)  ## run the tests that take minutes
	$(VENV)/bin/pytest -m slow $(ARGS)

# Warnings are other people's here.
test-e2e: $(DEVELOPMENT) $(CLIENTS) $(NODE_CLIENT)  ## other people's clients, a browser and a terminal against the daemon; needs Node 20, npm, Chromium, tmux
	$(E2E_VENV)/bin/python -m pytest -m clients -W ignore tests/e2e/clients tests/e2e/browser $(ARGS)
	$(VENV)/bin/pytest -m terminal tests/e2e/terminal $(ARGS)

pictures: $(DEVELOPMENT) $(CLIENTS)  ## make the pictures in docs/images anew; needs Chromium and tmux
	$(E2E_VENV)/bin/python -m bench.pictures.dashboard
	$(VENV)/bin/python -m bench.pictures.terminal
	$(VENV)/bin/python -m bench.live_picture

check: $(DEVELOPMENT)  ## formatting, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy $(addprefix -p flexquant.,$(PACKAGES))
	$(VENV)/bin/mypy tests
	$(VENV)/bin/mypy bench docs setup.py native_build.py

format: $(DEVELOPMENT)  ## format the code and mend what lint can mend
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

docs: $(INSTALLED)  ## renew what the pages of the reference take from the code
	$(VENV)/bin/python -m docs.generate

native-test:  ## compile and run the self test of the native kernels
	$(PYTHON) native_build.py

native-sanitize:  ## the same with the address and undefined behaviour sanitizers
	$(PYTHON) native_build.py --sanitize

native-arm:  ## the same cross-compiled for 64-bit ARM, under an emulator
	$(PYTHON) native_build.py --arm

soak: $(INSTALLED)  ## an hour of clients, memory pressure and wishes for one daemon (ARGS="--minutes 10 --seed 7")
	$(VENV)/bin/python -m bench.soak $(ARGS)

bench: $(BENCHMARK)  ## measure us beside the peers (ARGS="..."); the first time builds llama.cpp from source
	$(VENV)/bin/python -m bench $(ARGS)

demo: $(INSTALLED)  ## rebuild the embedded demo ensemble from the committed checkpoint and texts
	$(VENV)/bin/flexquant-build tests/assets/docs-llama --levels 8,3 --out build/demo \
	  --calibration tests/assets/text/calibration.txt --search-text tests/assets/text/search.txt $(ARGS)
	rm -rf server/demo
	cp -r build/demo server/demo

clean:  ## remove the environment and everything that was generated
	rm -rf $(VENV) $(E2E_VENV) tests/e2e/node/node_modules build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info engine/native/*.so

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$(TORCH)"

$(INSTALLED): $(VENV)/bin/python
	rm -f $(VENV)/.installed-*
	$(VENV)/bin/pip install --quiet --editable . --config-settings editable_mode=strict
	@test -e engine/native/libflexquant.so || echo "The native kernels were not built: the engine runs on torch" \
	  "alone, slower. 'make native-test' shows why."
	touch $@

$(DEVELOPMENT): $(INSTALLED)
	rm -f $(VENV)/.development-*
	$(VENV)/bin/pip install --quiet --group dev
	touch $@

# An environment on top of the other one: what clients bring along, or want in another version, changes nothing for
# `make test` and `make check`.
$(CLIENTS): | $(DEVELOPMENT)
	rm -rf $(E2E_VENV)
	$(VENV)/bin/python -m venv --without-pip $(E2E_VENV)
	$(VENV)/bin/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
	  > $$($(E2E_VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/below.pth
	$(E2E_VENV)/bin/python -m pip install --quiet --group e2e
	touch $@

$(NODE_CLIENT): tests/e2e/node/package.json tests/e2e/node/package-lock.json
	npm --prefix tests/e2e/node ci --no-audit --no-fund
	touch $@

# llama.cpp is compiled for this machine: a comparison with a portable build of it would be unfair.
$(BENCHMARK): $(INSTALLED)
	rm -f $(VENV)/.benchmark-*
	CMAKE_ARGS="-DGGML_NATIVE=ON $$CMAKE_ARGS" $(VENV)/bin/pip install --quiet --no-binary llama-cpp-python --group bench
	touch $@
