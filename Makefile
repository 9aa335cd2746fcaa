# Every target does its own set-up: a virtual environment in .venv, the Lambda emulator in .tools, and, for the tests,
# database servers from the system's packages (with sudo where needed). `make help` lists the targets.

SHELL := /bin/bash
ENGINE ?= postgresql
export PYTHON
export AWS_LAMBDA_RIE := $(CURDIR)/.tools/rie/aws-lambda-rie

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench certs clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

setup: ## install everything that the tests need
	@scripts/setup.sh environment
	@scripts/setup.sh emulator
	@scripts/setup.sh pythons
	@scripts/setup.sh servers

demo: ## three ways to connect, through one bad day on the genuine Lambda runtime (ENGINE=postgresql or mysql)
	@scripts/setup.sh demo $(ENGINE)
	@scripts/setup.sh emulator
	@.venv/bin/lambda-pool demo --engine $(ENGINE)

test: setup ## run all tests, on real servers and the genuine Lambda runtime
	TEST_PYTHONS="$$(scripts/setup.sh list-pythons)" .venv/bin/pytest $(ARGS)

lint: ## check style and types
	@scripts/setup.sh environment
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: ## bring the code into the project's style
	@scripts/setup.sh environment
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: ## measure the warm checkout against psycopg_pool
	@scripts/setup.sh environment
	@scripts/setup.sh servers
	.venv/bin/python benchmarks/checkout.py

certs: ## replace the certificate authorities of RDS by AWS's current ones (needs the internet)
	@scripts/setup.sh environment
	.venv/bin/python scripts/refresh_certs.py

clean: ## remove everything that the other targets made
	rm -rf .venv .venv-3.* .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
