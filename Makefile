# What a person types here, and what continuous integration runs. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
MAKEFLAGS += --no-print-directory
READY := .venv/.ready
BIN := .venv/bin
# Python's compiled modules are worth keeping: every phase is a process of its own.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-stack test-rest lint format audit licences sbom test-gpu test-export test-browser test-containers faults soak bench bench-quick images chart stack stack-down docs schema lock clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do printf '  make %-16s %s\n' "$$name" "$$text"; done

setup: $(READY)  ## make .venv from the compiled pins (once)

$(READY): requirements/all.txt requirements/demo.txt requirements/setup pyproject.toml
	@requirements/setup $@

demo: $(READY)  ## compress a real language model, end to end (KEEP=1 leaves the stack running)
	@$(BIN)/effir demo $(if $(KEEP),--keep)

test: $(READY) lint  ## format, lint, types, the import border, and every test
	@$(MAKE) --jobs 2 --keep-going test-stack test-rest

# Two halves side by side: what needs the embedded stack mostly waits for it. The first one's output comes when it is through.
# Models of four layers gain nothing from a second thread, and where both cores are busy its waiting costs five times the work.
test-stack test-rest: export OMP_NUM_THREADS := 1
test-stack:
	@mkdir -p .effir
	$(BIN)/pytest -m "stack and not containers and not browser" --durations=10 >.effir/test-stack.log 2>&1 && ended=0 || ended=$$?
	cat .effir/test-stack.log
	exit $$ended

test-rest:
	@$(BIN)/pytest -m "not stack and not containers and not browser" --durations=10

lint: $(READY)  ## format, lint, types, the import border and Dockerfiles alone
	@$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/hadolint docker/*.Dockerfile docker/stand-ins/*.Dockerfile

format: $(READY)  ## bring the source into its format
	@$(BIN)/ruff format
	$(BIN)/ruff check --fix

audit: $(READY)  ## known vulnerabilities of the pinned packages (MAY_SKIP=1: go on where nobody can be asked)
	@$(BIN)/python requirements/audit $(if $(MAY_SKIP),--may-skip)

licences: $(READY)  ## the licence of every pinned package; fails on one that is not allowed (QUIET=1: say only that)
	@$(BIN)/python requirements/licences $(if $(QUIET),--quiet)

sbom: $(READY)  ## what is installed here, as CycloneDX JSON in .effir/sbom.json (an image carries its own)
	@mkdir -p .effir
	$(BIN)/cyclonedx-py environment --output-reproducible --output-format JSON --output-file .effir/sbom.json .venv

stack:  ## Airflow, MLflow, Postgres and S3 in containers, phases in containers of their own (GPU=1 gives them GPUs)
	@docker/stack up

stack-down:  ## remove that stack with all its data
	@docker/stack down

test-gpu: $(READY)  ## the tests that need a CUDA device (skipped loudly without one)
	@$(BIN)/pytest -m gpu -rs tests

test-export: $(READY)  ## exported models in every engine that runs without a GPU; writes the table of docs/engines.md (ONLY=part,of,names: prints)
	@$(BIN)/python -m tests.export.matrix $(if $(ONLY),--only $(ONLY),--write)

test-browser: $(READY)  ## the report, Airflow's form and MLflow in Debian's Chromium (skipped loudly without it)
	@$(BIN)/pytest -m browser -rs --durations=12 tests/browser

test-containers: $(READY)  ## the tests on a real Docker engine, started where none runs (skipped loudly where none can be)
	@$(BIN)/pytest -m containers -rs --durations=12 -n 2 --dist loadfile --no-loadscope-reorder tests/containers

faults: $(READY)  ## kill phases, restart services, do S3 wrong, and print what came of it (SHARE=0.1 for a tenth; SEED=N)
	@$(BIN)/python -m tests.faults.run $(if $(SHARE),--share $(SHARE)) $(if $(SEED),--seed $(SEED))

bench: $(READY)  ## ours beside what a user would pick instead, measured here and now; .effir/bench.json (ROWS=part,of,names)
	@$(BIN)/python -m tests.bench.run $(if $(ROWS),--rows $(ROWS))

bench-quick: $(READY)  ## five rows of it in three minutes, against what was recorded; fails where one fell behind
	@$(BIN)/python -m tests.bench.run --quick

soak: $(READY)  ## 25 whole runs in a row in one stack: nothing may grow (RUNS=N)
	@$(BIN)/python -m tests.faults.soak $(if $(RUNS),--runs $(RUNS))

images:  ## build the images task, airflow and mlflow (IMAGES=task-cuda: that one; DEMO=0: without packaged models)
	@docker/build $(IMAGES)

chart: $(READY)  ## lint, render, validate and test the Helm chart (fetches helm once)
	@$(BIN)/ruff check helm helm/get helm/readme
	$(BIN)/python helm/get >/dev/null
	$(BIN)/pytest -m "not stack" tests/chart

docs: $(READY)  ## the documents as a site in .effir/site; a link that leads nowhere ends it
	@$(BIN)/mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml

schema: $(READY)  ## what is made from the code: the trigger form's schema, who may do what in S3, docs/reference
	@$(BIN)/effir spec --schema > dags/spec.schema.json
	$(BIN)/effir policies --identities > docker/s3.json
	$(BIN)/python docs/site/reference

lock:  ## compile the pins in requirements/all.txt anew
	@requirements/setup lock

clean:  ## stop the stack and remove what was made here
	@[ ! -x $(BIN)/effir ] || $(BIN)/effir down
	rm -rf .venv .effir
