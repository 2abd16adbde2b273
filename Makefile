# `make` lists what can be done; each verb is one line to the tool that does it.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# Outside the checkout: a fresh clone builds only what has changed since the last one.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/agentsight
export CARGO_TARGET_DIR ?= $(CACHE)/target
# The end-to-end tests run this agent.
export AGENTSIGHT_BIN ?= $(CARGO_TARGET_DIR)/release/agentsight
CARGO_FLAGS ?= --locked
# What meets the kernel runs as root; building never does.
ifneq ($(shell id -u),0)
as_root := CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sudo -E" CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="sudo -E"
endif

.PHONY: help
help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## watch a small real agent talk to a model, from outside
	@scripts/demo.sh

.PHONY: test
test: setup lint unit kernel e2e ## everything below: lint, unit, kernel, e2e

.PHONY: lint
lint: ## formatting, clippy, licences and sources of dependencies, shell scripts
	@scripts/lint.sh

.PHONY: unit
unit: ## unit, property and recorded-traffic tests
	cargo test $(CARGO_FLAGS) --workspace --exclude agentsight --exclude agentsight-e2e

.PHONY: kernel
kernel: ## tests of the agent, with its kernel programs (as root)
	$(as_root) cargo test $(CARGO_FLAGS) -p agentsight

.PHONY: e2e
e2e: build ## real SDKs, real collector, real kernel, real Kubernetes (as root)
	$(as_root) cargo test $(CARGO_FLAGS) -p agentsight-e2e

.PHONY: bench
bench: build ## what tracing costs: paired measurements (as root)
	@bench/run.sh

.PHONY: coverage
coverage: build ## the programs whose calls are seen, in docs/coverage.md: each line is what a test has just seen (as root)
	sed -i '/^<!-- Written by `make coverage`/,/^<!-- End of what/{/^|/d}' docs/coverage.md
	$(as_root) COVERAGE_TABLE=1 cargo test $(CARGO_FLAGS) -p agentsight-e2e --test agents --test clients --test gnutls --test go --test grpc --test mcp --test mcp_stdio --test rustls --test unix_socket --test unseen

.PHONY: kernels
kernels: build ## the main jobs on Debian's kernels 5.10 to 7.x in QEMU; writes docs/kernels.md
	$(as_root) KERNELS=all KERNELS_TABLE=$(CURDIR)/docs/kernels.md cargo test $(CARGO_FLAGS) -p agentsight-e2e --test kernels

.PHONY: fuzz
fuzz: ## feed the parsers hostile bytes, FUZZ_SECONDS each (60)
	@fuzz/run.sh $(or $(FUZZ_SECONDS),60)

.PHONY: crds
crds: ## write crds/, the chart's copy and docs/reference.md anew from api/
	cargo run $(CARGO_FLAGS) -p agentsight-api --bin crdgen -- .

.PHONY: build
build: ## release binaries of the agent, the operator and the tests' model server
	@scripts/setup.sh build
	cargo build $(CARGO_FLAGS) --release -p agentsight -p agentsight-operator -p agentsight-e2e --bins

.PHONY: image
image: build ## images of the agent and the operator, without a registry
	@scripts/images.sh release

.PHONY: setup
setup: ## install what is missing: packages, Rust components, Python SDKs, collector
	@scripts/setup.sh test

.PHONY: clean
clean: ## remove what cargo built
	cargo clean
