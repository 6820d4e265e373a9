# The same lines for people and for CI. `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Outside of the checkout, so that a fresh clone builds quickly.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/tenon/target
# Tests of properties draw the same inputs each time; to try others: make test PROPTEST_RNG_SEED=$RANDOM, or fuzz/.
export PROPTEST_RNG_SEED ?= 1
# Queries are checked against the committed .sqlx, whatever DATABASE_URL is in the shell.
export SQLX_OFFLINE ?= true
# A registry that stumbles once must not cost a whole run.
export CARGO_NET_RETRY ?= 10

CARGO ?= cargo
IMAGE ?= tenon:latest
# Given to `tenon dev` or the bench: make up ARGS=--ephemeral
ARGS ?=
# A filter for the test runner: make test TESTS=walk
TESTS ?=

help: ## List what can be made
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

up: ## Install what is missing, build in release, start the whole mesh
	@scripts/install run
	$(CARGO) build --release --locked -p tenon
	@exec "$$CARGO_TARGET_DIR/release/tenon" dev $(ARGS)

test: lint deploy ## Install what tests need besides, run every check and every test
	@scripts/install test
	$(CARGO) build --locked -p tenon -p tenon-example-crm
	@export TENON_BIN="$$CARGO_TARGET_DIR/debug/tenon" TENON_CRM_BIN="$$CARGO_TARGET_DIR/debug/crm"; \
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  set -x; $(CARGO) nextest run --locked --workspace $(TESTS); \
	else \
	  set -x; $(CARGO) test --locked --workspace $(TESTS); \
	fi

lint: ## rustfmt and clippy, warnings refused
	@scripts/install build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

python: ## Try the examples in Python, and the how-to that makes one
	@scripts/install deploy
	scripts/check-python-worker

peers: ## Try the official clients of Connect, gRPC and gRPC-Web in JavaScript and Python (needs node 20)
	@scripts/install deploy
	scripts/check-peers

deploy: ## Render and schema-check helm/, k8s/ and compose.yaml
	@scripts/install deploy
	scripts/check-deploy

bench: ## Every performance figure that the project claims
	@scripts/install test
	$(CARGO) build --release --locked -p tenon
	$(CARGO) run --release --locked -p tenon-bench -- $(ARGS)

image: ## Build the container image
	docker build --tag $(IMAGE) .

sqlx: ## Check every query against the migrations and write .sqlx anew
	@scripts/install run
	scripts/sqlx

.PHONY: help up test lint python peers deploy bench image sqlx
