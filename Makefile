# mbls: every target works in a fresh clone; the first one that needs it makes .venv.
PYTHON ?= python3
BIN    := .venv/bin
MBLS   := $(BIN)/mbls
# two workers of one thread each; a file's tests share a worker and its fixtures
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

DATASET ?= acdc
LOSS    ?= mbls

TARGETS := help install train slurm benchmark evaluate report predict data check-data splits cache-info cache-clean \
  test test-all coverage lint format error-rates readme losses bench bench-losses bench-steps bench-metrics \
  bench-bootstrap bench-data bench-train bench-evaluation bench-ddp bench-shared docs hooks clean

# The variables of each target beside those of EVERY target; another one on the command line is refused.
EVERY := PYTHON ARGS SHELL MAKE% BIN MBLS PYTEST
HARDWARE := DEVICES NODES ACCELERATOR PRECISION
CHOICES := DATASET NETWORK DATA_ROOT PRESET DIM SPLIT ADAPT EPOCHS BATCH_SIZE SYNC_BATCHNORM CACHE LOGGER SELECT \
  WINDOW VERBOSE $(HARDWARE)
AGAIN := RUN CKPT DATA_ROOT CACHE MIRROR WINDOW $(HARDWARE)
GRIDS := LOSSES SEEDS FOLDS ROOT
vars.help        := DATASET LOSS NETWORK PRESET DATA_ROOT DIM
vars.train       := $(CHOICES) LOSS SEED FOLD RUN RESUME
vars.benchmark   := $(CHOICES) $(GRIDS) JOBS
vars.slurm       := $(CHOICES) $(GRIDS) LOSS SEED FOLD TIME SITE DRY
vars.evaluate    := $(AGAIN) SPLIT FOLD GRID TAG VERBOSE
vars.predict     := $(AGAIN) INPUT OUTPUT PROBABILITIES OVERWRITE
vars.report      := RUNS OUTPUT REFERENCE NO_CAPTIONS NO_PICTURES
vars.data        := DATASET DATA_ROOT PRESET DIM SPLIT CACHE
vars.check-data  := $(vars.data)
vars.splits      := DATASET DATA_ROOT FOLDS OUTPUT SPLIT
vars.cache-info  := CACHE
vars.cache-clean := CACHE YES ALL DAYS
vars.bench-shared := OLD

# Those of the command line are not those of the environment, nor what another Makefile hands down.
GOALS   := $(filter $(TARGETS),$(or $(MAKECMDGOALS),help))
KNOWN   := $(foreach goal,$(GOALS),$(vars.$(goal)))
GIVEN   := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
UNKNOWN := $(if $(GOALS),$(if $(filter 0,$(MAKELEVEL)),$(filter-out $(EVERY) $(KNOWN),$(GIVEN))))
NEAREST := import difflib, sys; print(*difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], 1))
OTHERS  = $(strip $(foreach target,$(filter-out help,$(TARGETS)),$(if $(filter $(1),$(vars.$(target))),$(target))))
no_variable = $(1) is no variable of $(GOALS)$(call others,$(call OTHERS,$(1))).$(call nearest,$(shell \
  $(PYTHON) -c '$(NEAREST)' '$(1)' $(KNOWN))) There are: $(sort $(KNOWN)) ARGS; see make help
others = $(if $(1), (but of $(1)))
nearest = $(if $(1), Did you mean $(1)?)
ifneq ($(UNKNOWN),)
  $(error $(call no_variable,$(firstword $(UNKNOWN))))
endif

# Variables that become options; one that is not set is not given.
on = $(filter 1 yes true,$($(1)))
OPTIONS = $(if $(NETWORK),--network $(NETWORK)) $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)") \
  $(if $(PRESET),--preset $(PRESET)) $(if $(SPLIT),--split "$(SPLIT)") $(if $(DIM),--dim $(DIM)) \
  $(if $(ADAPT),--adapt $(ADAPT)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(BATCH_SIZE),--batch-size $(BATCH_SIZE)) \
  $(if $(DEVICES),--devices $(DEVICES)) $(if $(NODES),--nodes $(NODES)) \
  $(if $(ACCELERATOR),--accelerator $(ACCELERATOR)) $(if $(PRECISION),--precision $(PRECISION)) \
  $(if $(call on,SYNC_BATCHNORM),--trainer.sync_batchnorm true) \
  $(if $(CACHE),--data.init_args.cache_dir "$(CACHE)") \
  $(if $(LOGGER),--logger $(LOGGER)) \
  $(if $(SELECT),--select $(SELECT)) $(WINDOWED) $(TABLE)
OF_ONE_RUN = $(if $(SEED),--seed $(SEED)) $(if $(FOLD),--fold $(FOLD))
DATA_OPTIONS = --dataset $(DATASET) $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)") \
  $(if $(PRESET),--preset $(PRESET)) $(if $(DIM),--dim $(DIM)) \
  $(if $(SPLIT),--data.init_args.split "$(SPLIT)") \
  $(if $(CACHE),--data.init_args.cache_dir "$(CACHE)")

# What may differ when a run is evaluated or applied again.
AGAIN_OPTIONS = $(if $(DATA_ROOT),--data.init_args.root "$(DATA_ROOT)") \
  $(if $(CACHE),--data.init_args.cache_dir "$(CACHE)") \
  $(if $(DEVICES),--trainer.devices $(DEVICES)) $(if $(NODES),--trainer.num_nodes $(NODES)) \
  $(if $(ACCELERATOR),--trainer.accelerator $(ACCELERATOR)) \
  $(if $(PRECISION),--trainer.precision $(PRECISION)) $(WINDOWED)
WINDOWED = $(if $(WINDOW),--model.window $(WINDOW))
TABLE = $(if $(call on,VERBOSE),--verbose)
needs = $(if $($(1)),,$(error $@ needs $(1)=...; see make help))

PRESET_NOW = $(or $(PRESET),$(if $(DATA_ROOT),paper,quick))
NETWORK_NOW = $(or $(NETWORK),$(if $(filter 3,$(DIM)),unet3d,$(if $(filter paper,$(PRESET_NOW)),unet_paper,unet)))
# a resumed run has its own; one that is given all the same is refused
new = $(if $(call on,RESUME),$(filter $(1),$(GIVEN)),yes)
MIRRORED = $(if $(MIRROR),--mirror $(MIRROR))

.DEFAULT_GOAL := help
.PHONY: $(TARGETS)

help:  ## Show the targets, the variables and what they can be
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-24s %s\n", $$1, $$2}'
	@echo
	@echo "Variables of train:"
	@for kind in data:DATASET loss:LOSS network:NETWORK trainer:PRESET logger:LOGGER; do \
	  printf '  %-12s %s\n' "$${kind#*:}" "$$(ls experiments/configs/$${kind%%:*} | sed -n 's/^\([^.]*\)\.yaml$$/\1/p' | tr '\n' ' ')"; done
	@echo "  DATA_ROOT    folder of the real dataset; without it a phantom is written to data/"
	@echo "  DIM=2|3      slices or volumes; without it what NETWORK asks for"
	@echo "  SPLIT        JSON file with the patients of each part, or with folds (FOLD=k takes one)"
	@echo "  ADAPT=val|holdout  what a loss adapts to: validation cases, or training patients held out"
	@echo '  LOSS takes settings: LOSS=mbls:margin=8,alpha=0.3; its file states them (make losses)'
	@echo "  SEED FOLD EPOCHS BATCH_SIZE (over all ranks) DEVICES NODES ACCELERATOR PRECISION"
	@echo "  SYNC_BATCHNORM=1  batch norm over all GPUs"
	@echo "  CACHE        folder of the preprocessed data (cache/)"
	@echo "  RUN          run folder: to write (train), to read (evaluate, predict)"
	@echo "  RESUME=1     train: go on in RUN; with EPOCHS=n, to more epochs than it was trained"
	@echo "  WINDOW=patch|padded|whole  evaluation sees windows of the training size, or whole slices"
	@echo "  VERBOSE=1    the whole table of a test on screen"
	@echo "  SELECT=dice|nll|ece|compromise   which epoch is best"
	@echo '  ARGS         any further option, e.g. ARGS="--trainer.gradient_clip_val 1"'
	@echo '  LOSSES SEEDS FOLDS JOBS ROOT   benchmark: LOSSES="ce mbls:margin=3 mbls:margin=10,alpha=0.3"'
	@echo "Variables of evaluate and predict: RUN CKPT=best|last|file MIRROR=0,1 (axes whose mirrorings"
	@echo "  are averaged) WINDOW DATA_ROOT CACHE DEVICES NODES ACCELERATOR PRECISION"
	@echo "Variables of evaluate: GRID=preprocessed|native SPLIT FOLD (other patients) TAG=name VERBOSE=1;"
	@echo "  of predict: INPUT OUTPUT PROBABILITIES=1 OVERWRITE=1"
	@echo "Variables of report: RUNS (folders; default runs) OUTPUT REFERENCE=loss NO_CAPTIONS=1 NO_PICTURES=1"
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
	@$(MBLS) train $(if $(call new,DATASET),--dataset "$(DATASET)") $(if $(call new,LOSS),--loss "$(LOSS)") \
	  $(OPTIONS) $(OF_ONE_RUN) $(if $(RUN),--run "$(RUN)") $(if $(call on,RESUME),--resume) $(ARGS)

benchmark: install  ## Train LOSSES with SEEDS (and FOLDS), JOBS at a time, and report; alone: a small default
	@$(MBLS) benchmark $(if $(filter file,$(origin DATASET)),,--dataset $(DATASET)) \
	  $(if $(LOSSES),--losses "$(LOSSES)") $(if $(SEEDS),--seeds "$(SEEDS)") \
	  $(if $(FOLDS),--folds "$(FOLDS)") $(if $(JOBS),--jobs $(JOBS)) $(if $(ROOT),--root "$(ROOT)") \
	  $(OPTIONS) $(ARGS)

slurm: install  ## Train in a batch job: NODES DEVICES TIME, an array with LOSSES SEEDS FOLDS
	@$(BIN)/python -m experiments.slurm --dataset $(DATASET) --losses "$(or $(LOSSES),$(LOSS))" \
	  $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(FOLDS),--folds "$(FOLDS)") \
	  $(if $(ROOT),--root "$(ROOT)") $(if $(TIME),--time "$(TIME)") $(if $(SITE),--site "$(SITE)") \
	  $(if $(call on,DRY),--dry-run) $(OPTIONS) $(OF_ONE_RUN) $(ARGS)

evaluate: install  ## Test a checkpoint of RUN again
	$(call needs,RUN)
	@$(MBLS) evaluate "$(RUN)" $(if $(CKPT),--ckpt "$(CKPT)") $(if $(TAG),--tag "$(TAG)") \
	  $(if $(SPLIT),--split "$(SPLIT)") $(if $(FOLD),--fold $(FOLD)) $(if $(GRID),--grid $(GRID)) \
	  $(MIRRORED) $(AGAIN_OPTIONS) $(TABLE) $(ARGS)

report: install  ## Compare the runs in or below RUNS: tables, figures, one HTML file
	@$(MBLS) report $(or $(RUNS),runs) $(if $(OUTPUT),--output "$(OUTPUT)") \
	  $(if $(REFERENCE),--reference "$(REFERENCE)") $(if $(call on,NO_CAPTIONS),--no-captions) \
	  $(if $(call on,NO_PICTURES),--no-pictures) $(ARGS)

predict: install  ## Segment INPUT (a NIfTI file or a folder) with RUN into OUTPUT
	$(call needs,RUN)$(call needs,INPUT)$(call needs,OUTPUT)
	@$(MBLS) predict --run "$(RUN)" --input "$(INPUT)" --output "$(OUTPUT)" \
	  $(if $(CKPT),--ckpt "$(CKPT)") $(if $(call on,PROBABILITIES),--probabilities) \
	  $(if $(call on,OVERWRITE),--overwrite) $(MIRRORED) $(AGAIN_OPTIONS) $(ARGS)

data: install  ## Write the phantom where there is no DATA_ROOT, and build the cache
	@$(MBLS) data $(DATA_OPTIONS) $(ARGS)

check-data: install  ## Check every case of DATASET and list all problems
	@$(MBLS) check-data $(DATA_OPTIONS) $(ARGS)

splits: install  ## Write FOLDS folds of DATASET's patients as JSON
	@$(MBLS) splits --dataset $(DATASET) $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)") \
	  --folds $(or $(FOLDS),5) $(if $(OUTPUT),--output "$(OUTPUT)") \
	  $(if $(SPLIT),--data.init_args.split "$(SPLIT)") $(ARGS)

cache-info: install  ## List the caches: dataset, settings, size, age
	@$(MBLS) cache-info $(if $(CACHE),--cache "$(CACHE)") $(ARGS)

cache-clean: install  ## Remove caches of no use any more (YES=1: do not ask; ALL=1; DAYS=n)
	@$(MBLS) cache-clean $(if $(CACHE),--cache "$(CACHE)") $(if $(call on,YES),--yes) \
	  $(if $(call on,ALL),--all) $(if $(DAYS),--days $(DAYS)) $(ARGS)

test: install  ## Run the tests (a few minutes)
	@$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-all: install  ## Run all tests, the slow ones too
	@$(PYTEST) $(ARGS)

error-rates: install  ## How often the report's tests and intervals are wrong (minutes); ARGS=--write: docs/statistics.md
	@$(BIN)/python -m experiments.benchmarks.statistics $(ARGS)

readme: install  ## Write the README's tables anew: the losses, and the results of make benchmark
	@$(BIN)/python -m experiments.readme $(ARGS)

losses: install  ## Print the losses: class, formula, defaults, paper
	@$(MBLS) losses $(ARGS)

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

bench-shared: install  ## Counting and training beside busy processes; OLD=another checkout (12 minutes)
	@$(BIN)/python -m experiments.benchmarks.shared $(if $(OLD),--old "$(OLD)") $(ARGS)

coverage: install  ## Run the tests and show what they reach
	@$(PYTEST) -m "not slow and not gpu" --cov --cov-report=term $(ARGS)

lint: install  ## Check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: install  ## Put the code in style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: install  ## Build the documentation site, with the API, into site/
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet $(ARGS)

hooks: install  ## Check style, types and spelling before each commit
	@$(BIN)/pre-commit install

clean:  ## Remove the environment and what tools leave; keep data/ and runs/
	rm -rf .venv build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
