# mbls: every target works in a fresh clone; the first one that needs it makes .venv.
PYTHON ?= python3
BIN    := .venv/bin
MBLS   := $(BIN)/mbls
# two workers of one thread each; a file's tests share a worker and its fixtures
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

DATASET ?= acdc
LOSS    ?= mbls

# Variables that become options; one that is not set is not given.
OPTIONS = $(if $(NETWORK),--network $(NETWORK)) $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)") \
  $(if $(PRESET),--preset $(PRESET)) $(if $(SEED),--seed $(SEED)) $(if $(FOLD),--fold $(FOLD)) \
  $(if $(SPLIT),--split "$(SPLIT)") $(if $(DIM),--dim $(DIM)) \
  $(if $(ADAPT),--adapt $(ADAPT)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(BATCH_SIZE),--batch-size $(BATCH_SIZE)) \
  $(if $(DEVICES),--devices $(DEVICES)) $(if $(NODES),--nodes $(NODES)) \
  $(if $(ACCELERATOR),--accelerator $(ACCELERATOR)) $(if $(PRECISION),--precision $(PRECISION)) \
  $(if $(filter 1 yes true,$(SYNC_BATCHNORM)),--trainer.sync_batchnorm true) \
  $(if $(CACHE),--data.init_args.cache_dir "$(CACHE)") \
  $(if $(LOGGER),--logger $(LOGGER)) \
  $(if $(SELECT),--select $(SELECT)) $(if $(RUN),--run "$(RUN)") $(if $(filter 1 yes true,$(RESUME)),--resume)
DATA_OPTIONS = --dataset $(DATASET) $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)") \
  $(if $(PRESET),--preset $(PRESET)) $(if $(DIM),--dim $(DIM)) \
  $(if $(CACHE),--data.init_args.cache_dir "$(CACHE)")

# What may differ when a run is evaluated or applied again.
AGAIN = $(if $(DATA_ROOT),--data.init_args.root "$(DATA_ROOT)") \
  $(if $(CACHE),--data.init_args.cache_dir "$(CACHE)") \
  $(if $(DEVICES),--trainer.devices $(DEVICES)) $(if $(NODES),--trainer.num_nodes $(NODES)) \
  $(if $(ACCELERATOR),--trainer.accelerator $(ACCELERATOR)) \
  $(if $(PRECISION),--trainer.precision $(PRECISION))
needs = $(if $($(1)),,$(error $@ needs $(1)=...; see make help))

PRESET_NOW = $(or $(PRESET),$(if $(DATA_ROOT),paper,quick))
NETWORK_NOW = $(or $(NETWORK),$(if $(filter 3,$(DIM)),unet3d,$(if $(filter paper,$(PRESET_NOW)),unet_paper,unet)))
VERBOSELY = $(if $(filter 1 yes true,$(VERBOSE)),--verbose)
MIRRORED = $(if $(MIRROR),--mirror $(MIRROR))

.DEFAULT_GOAL := help
.PHONY: help install train slurm benchmark evaluate report predict data check-data splits cache-info cache-clean test test-all coverage lint format \
  error-rates readme losses bench bench-losses bench-steps bench-metrics bench-bootstrap bench-data bench-train \
  bench-evaluation bench-ddp clean

help:  ## Show the targets, the variables and what they can be
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'
	@echo
	@echo "Variables of train:"
	@for kind in data:DATASET loss:LOSS network:NETWORK trainer:PRESET logger:LOGGER; do \
	  printf '  %-12s %s\n' "$${kind#*:}" "$$(ls experiments/configs/$${kind%%:*} | sed -n 's/^\([^.]*\)\.yaml$$/\1/p' | tr '\n' ' ')"; done
	@echo "  DATA_ROOT    folder of the real dataset; without it a phantom is written to data/"
	@echo "  DIM=2|3      slices or volumes; without it what NETWORK asks for"
	@echo "  SPLIT        JSON file with the patients of each part, or with folds (FOLD=k takes one)"
	@echo "  ADAPT=val|holdout  what a loss adapts to: validation cases, or training patients held out"
	@echo "  SEED FOLD EPOCHS BATCH_SIZE (over all ranks) DEVICES NODES ACCELERATOR PRECISION"
	@echo "  SYNC_BATCHNORM=1  batch norm over all GPUs"
	@echo "  CACHE        folder of the preprocessed data (cache/)"
	@echo "  RUN          run folder: to write (train), to read (evaluate, predict)"
	@echo "  RESUME=1     train: go on in RUN"
	@echo "  SELECT=dice|nll|ece|compromise   which epoch is best"
	@echo "  VERBOSE=1    print all numbers of the test (train, evaluate)"
	@echo '  ARGS         any further option, e.g. ARGS="--trainer.gradient_clip_val 1"'
	@echo '  LOSSES SEEDS FOLDS JOBS ROOT   benchmark: LOSSES="ce mbls:margin=3 mbls:margin=10,alpha=0.3"'
	@echo "Variables of evaluate and predict: RUN CKPT=best|last|file INPUT OUTPUT PROBABILITIES=1"
	@echo "  MIRROR=0,1 (axes whose mirrorings are averaged)   GRID=preprocessed|native (evaluate)"
	@echo "Variables of report: RUNS (folders; default runs) OUTPUT REFERENCE=loss"
	@echo "Variables of slurm: those of train, TIME=24:00:00 SITE=file.yaml DRY=1, LOSSES SEEDS FOLDS"
	@echo "Variables of splits: FOLDS=5 OUTPUT; of cache-clean: YES=1 ALL=1 DAYS=n"
	@echo "Now: DATASET=$(DATASET) LOSS=$(LOSS) NETWORK=$(NETWORK_NOW) PRESET=$(PRESET_NOW)"

install: .venv/installed  ## Make .venv with the pinned versions

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mbls needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

train: install  ## Train on DATASET with LOSS, then test the best checkpoint
	@$(MBLS) train $(if $(filter 1 yes true,$(RESUME)),,--dataset $(DATASET) --loss $(LOSS)) $(OPTIONS) $(VERBOSELY) $(ARGS)

benchmark: install  ## Train LOSSES with SEEDS (and FOLDS), JOBS at a time, and report; alone: a small default
	@$(MBLS) benchmark $(if $(filter file,$(origin DATASET)),,--dataset $(DATASET)) \
	  $(if $(LOSSES),--losses "$(LOSSES)") $(if $(SEEDS),--seeds "$(SEEDS)") \
	  $(if $(FOLDS),--folds "$(FOLDS)") $(if $(JOBS),--jobs $(JOBS)) $(if $(ROOT),--root "$(ROOT)") \
	  $(OPTIONS) $(ARGS)

slurm: install  ## Train in a batch job: NODES DEVICES TIME, an array with LOSSES SEEDS FOLDS
	@$(BIN)/python -m experiments.slurm --dataset $(DATASET) --losses "$(or $(LOSSES),$(LOSS))" \
	  $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(FOLDS),--folds "$(FOLDS)") \
	  $(if $(ROOT),--root "$(ROOT)") $(if $(TIME),--time "$(TIME)") $(if $(SITE),--site "$(SITE)") \
	  $(if $(filter 1 yes true,$(DRY)),--dry-run) $(OPTIONS) $(ARGS)

evaluate: install  ## Test a checkpoint of RUN again
	$(call needs,RUN)
	@$(MBLS) evaluate "$(RUN)" $(if $(CKPT),--ckpt "$(CKPT)") \
	  $(if $(GRID),--grid $(GRID)) $(MIRRORED) $(AGAIN) $(VERBOSELY) $(ARGS)

report: install  ## Compare the runs in or below RUNS: tables, figures, one HTML file
	@$(MBLS) report $(or $(RUNS),runs) $(if $(OUTPUT),--output "$(OUTPUT)") \
	  $(if $(REFERENCE),--reference "$(REFERENCE)") $(ARGS)

predict: install  ## Segment INPUT (a NIfTI file or a folder) with RUN into OUTPUT
	$(call needs,RUN)$(call needs,INPUT)$(call needs,OUTPUT)
	@$(MBLS) predict --run "$(RUN)" --input "$(INPUT)" --output "$(OUTPUT)" \
	  $(if $(CKPT),--ckpt "$(CKPT)") $(if $(PROBABILITIES),--probabilities) $(MIRRORED) $(AGAIN) $(ARGS)

data: install  ## Write the phantom where there is no DATA_ROOT, and build the cache
	@$(MBLS) data $(DATA_OPTIONS) $(ARGS)

check-data: install  ## Check every case of DATASET and list all problems
	@$(MBLS) check-data $(DATA_OPTIONS) $(ARGS)

splits: install  ## Write FOLDS folds of DATASET's patients as JSON
	@$(MBLS) splits --dataset $(DATASET) $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)") \
	  --folds $(or $(FOLDS),5) $(if $(OUTPUT),--output "$(OUTPUT)") \
	  $(if $(SPLIT),--data.init_args.split "$(SPLIT)") $(ARGS)

cache-info: install  ## List the caches: dataset, settings, size, age
	@$(MBLS) cache-info $(if $(CACHE),--cache "$(CACHE)")

cache-clean: install  ## Remove caches of no use any more (YES=1: do not ask; ALL=1; DAYS=n)
	@$(MBLS) cache-clean $(if $(CACHE),--cache "$(CACHE)") $(if $(YES),--yes) \
	  $(if $(ALL),--all) $(if $(DAYS),--days $(DAYS))

test: install  ## Run the tests (a few minutes)
	@$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-all: install  ## Run all tests, the slow ones too
	@$(PYTEST) $(ARGS)

error-rates: install  ## How often the report's tests and intervals are wrong (minutes); ARGS=--write: docs/statistics.md
	@$(BIN)/python -m experiments.benchmarks.statistics $(ARGS)

readme: install  ## Write the README's tables anew: the losses, and the results of make benchmark
	@$(BIN)/python -m experiments.readme $(ARGS)

losses: install  ## Print the losses: class, formula, defaults, paper
	@$(MBLS) losses

bench: bench-losses bench-steps bench-metrics bench-bootstrap bench-data bench-train bench-evaluation bench-ddp  ## Measure speed and memory beside the peers (minutes)

bench-losses: install  ## Losses against cross-entropy
	@$(BIN)/python -m experiments.benchmarks.losses $(ARGS)

bench-steps: install  ## Whole steps with the losses that adapt, beside MbLS
	@$(BIN)/python -m experiments.benchmarks.steps $(ARGS)

bench-metrics: install  ## Metrics against torchmetrics and MONAI
	@$(BIN)/python -m experiments.benchmarks.metrics $(ARGS)

bench-bootstrap: install  ## Intervals of a test of 200 patients
	@$(BIN)/python -m experiments.benchmarks.bootstrap $(ARGS)

bench-data: install  ## Slices and patches a second beside NIfTI, HDF5 and MONAI's caches
	@OMP_NUM_THREADS=1 $(BIN)/python -m experiments.benchmarks.data $(ARGS)

bench-train: install  ## What a training epoch costs beyond its bare steps
	@$(BIN)/python -m experiments.benchmarks.train $(ARGS)

bench-evaluation: install  ## Scoring a volume beside the published way
	@$(BIN)/python -m experiments.benchmarks.evaluation $(ARGS)

bench-ddp: install  ## Training on two processes beside one
	@$(BIN)/python -m experiments.benchmarks.ddp $(ARGS)

coverage: install  ## Run the tests and show what they reach
	@$(PYTEST) -m "not slow and not gpu" --cov --cov-report=term $(ARGS)

lint: install  ## Check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: install  ## Put the code in style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:  ## Remove the environment and what tools leave; keep data/ and runs/
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
