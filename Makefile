# Every target does its own set-up: a virtual environment in .venv, the Lambda emulator in .tools, and, for the tests,
# database servers from the system's packages (with sudo if needed). `make help` lists the targets.

SHELL := /bin/bash
ENGINE ?= postgresql
ARCH ?= arm64
VARIANT ?= both
SECONDS_EACH ?= 60
TIMES ?= 10
WORKERS ?= 4
export PYTHON WORKERS
# Hundreds of processes import the same modules, so their byte code is kept.
unexport PYTHONDONTWRITEBYTECODE
export AWS_LAMBDA_RIE := $(CURDIR)/.tools/rie/aws-lambda-rie

.DEFAULT_GOAL := help
.PHONY: help setup setup-all demo example test test-all mutants coverage fuzz lint format bench certs layer audit docs site dist chaos soak clean layers release-check build-LayerArm64 build-LayerX8664

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

setup: ## install what `make test` needs
	@scripts/setup.sh test

setup-all: ## install what `make test-all` needs: further Pythons (one without the GIL is built), the SAM CLI, wheels
	@scripts/setup.sh test-all

demo: ## three ways to connect, through one bad day on the genuine Lambda runtime (ENGINE=postgresql or mysql)
	@scripts/setup.sh demo $(ENGINE)
	@scripts/setup.sh emulator
	@.venv/bin/lambda-pool demo --engine $(ENGINE)

# An example that needs MySQL gets it, whatever ENGINE says.
EXAMPLE_ENGINE = $(if $(shell grep -l 'AllowedPattern: mysql' examples/$(NAME)/template.yaml 2>/dev/null),mysql,$(ENGINE))

example: ## run an example on the genuine Lambda runtime, on a private server (NAME=sqs_batch, ENGINE=mysql)
	@scripts/setup.sh environment
	@scripts/setup.sh demo $(EXAMPLE_ENGINE)
	@scripts/setup.sh emulator
	@.venv/bin/python scripts/run_example.py "$(NAME)" --engine "$(ENGINE)"

# Tests that are picked by hand run in one process, which starts sooner, and with every case of those that are sampled.
# Files start in the order of their names: by the number of their tests, the longest would come last.
AT_ONCE = $(if $(ARGS),,-n $(WORKERS) --dist loadfile --no-loadscope-reorder)

test: setup ## run the tests except for the slow ones, on real servers and the genuine Lambda runtime (ARGS=tests/unit/core for a part)
	TEST_CASES=$(if $(ARGS),all) TEST_PYTHONS="$$(scripts/setup.sh list-newest-python)" .venv/bin/pytest -m "not slow" $(AT_ONCE) $(ARGS)

test-all: setup-all ## run everything at full length, on every Python here, and then all mutants
	TEST_SPEED=full TEST_PYTHONS="$$(scripts/setup.sh list-pythons)" .venv/bin/pytest $(AT_ONCE) $(ARGS)
	$(if $(ARGS),,.venv/bin/python scripts/mutants.py)

mutants: setup ## break each safety rule in a copy, and check that a test notices (ARGS="fork deadline" for some)
	@.venv/bin/python scripts/mutants.py $(ARGS)

fuzz: ## search with fresh random input for faults that the tests do not try (SECONDS_EACH=60 for a parser, TIMES=10 the tests)
	@scripts/setup.sh environment
	@scripts/setup.sh servers
	@scripts/setup.sh fuzz
	@for target in url query parts argument option secret arn answer host; do \
		echo "fuzz: $$target, for $(SECONDS_EACH) s"; \
		mkdir -p .fuzz/$$target && .venv-fuzz/bin/python scripts/fuzz_parsers.py $$target -verbosity=0 \
			-artifact_prefix=.fuzz/ -max_total_time=$(SECONDS_EACH) .fuzz/$$target || exit 1; \
	done
	FUZZ_TIMES=$(TIMES) .venv/bin/pytest tests/faults/fuzz --timeout=3000 $(ARGS)

coverage: setup ## measure the branch coverage of the tests, in every process that they start
	@.venv/bin/python scripts/measure_coverage.py $(ARGS)

# Both engines, unless ENGINE says which.
CHAOS_ENGINE = $(if $(filter file,$(origin ENGINE)),both,$(ENGINE))

chaos: setup ## run thousands of invocations under faults, and compare their reports with the database (SEED=1 INVOCATIONS=20000 ENGINE=mysql)
	.venv/bin/python -m tests.faults.chaos ledger $(CHAOS_ENGINE) --seed $(or $(SEED),1) --invocations $(or $(INVOCATIONS),20000)

soak: setup ## check that environments do not grow under faults (SEED=1 INVOCATIONS=100000 ENGINE=mysql)
	.venv/bin/python -m tests.faults.chaos soak $(CHAOS_ENGINE) --seed $(or $(SEED),1) --invocations $(or $(INVOCATIONS),100000)

lint: ## check style and types
	@scripts/setup.sh environment
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: ## bring the code into the project's style
	@scripts/setup.sh environment
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: ## measure against the real peers and write docs/benchmarks.md (NAME=checkout for one part; NAME="fleet 1 6": docs/fleet.md)
	@scripts/setup.sh environment
	@scripts/setup.sh emulator
	@scripts/setup.sh servers
	@scripts/setup.sh bench
	@.venv-bench/bin/python -m benchmarks $(NAME)

certs: ## replace the certificate authorities of RDS by AWS's current ones (needs the internet)
	@scripts/setup.sh environment
	.venv/bin/python scripts/refresh_certs.py

layer: ## build a Lambda layer (ARCH=arm64 or x86_64, PYTHON=3.13, VARIANT=both, postgres or mysql)
	@PYTHON= scripts/setup.sh tools
	@.venv-build/bin/python scripts/build_layer.py --arch $(ARCH) --python $(or $(PYTHON),3.13) --variant $(VARIANT)

layers: ## build every layer for a Python version (PYTHON=3.13), each with a list of what is in it (CycloneDX)
	@PYTHON= scripts/setup.sh tools
	@for arch in arm64 x86_64; do for variant in both postgres mysql; do \
		[ "$$arch-$(or $(PYTHON),3.13)" = arm64-3.11 ] && [ "$$variant" != mysql ] && continue; \
		.venv-build/bin/python scripts/build_layer.py --quick --arch $$arch --python $(or $(PYTHON),3.13) --variant $$variant || exit 1; \
	done; done
	@.venv-build/bin/python scripts/write_sbom.py build/layer-*-python$(or $(PYTHON),3.13)-*.zip

# `sam build` in this folder calls these for the layers of template.yaml, with the Python version that is set there.
build-LayerArm64 build-LayerX8664: build-Layer%:
	@PYTHON= scripts/setup.sh tools
	@.venv-build/bin/python scripts/build_layer.py --arch $(if $(filter Arm64,$*),arm64,x86_64) --into "$(ARTIFACTS_DIR)" \
		--python "$$(sed -n 's/^ *Runtime: python//p' template.yaml)"

audit: ## check what we depend on: pins, licences, known vulnerabilities
	@scripts/setup.sh audit
	@.venv-audit/bin/python scripts/audit.py

docs: ## write the API reference again from the docstrings
	@scripts/setup.sh environment
	.venv/bin/python scripts/build_reference.py

site: ## build the site of these pages into build/site
	@scripts/setup.sh environment
	@.venv/bin/python scripts/build_site.py

dist: ## build the source distribution and the wheel, and install it with each extra on every Python here
	@PYTHON= scripts/setup.sh tools
	@rm -rf dist
	.venv-build/bin/python -m build --no-isolation
	.venv-build/bin/twine check --strict dist/*
	.venv-build/bin/python scripts/check_dist.py

release-check: dist ## check what can be checked of a release in advance: workflows, metadata, links, installs (ARGS="--tag v0.1.0")
	@.venv-build/bin/python scripts/check_release.py $(ARGS)

clean: ## remove everything that the other targets made
	rm -rf .venv .venv-3.* .venv-bench .venv-audit .venv-build .venv-fuzz .venv-sam .venv-deploy .venv-free-threaded .fuzz .aws-sam .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage-run build dist
