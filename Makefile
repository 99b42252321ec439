# mbls: every target works in a fresh clone; the first one that needs it makes .venv.
PYTHON ?= python3
BIN    := .venv/bin
MBLS   := $(BIN)/mbls
# two workers of one thread each; a file's tests share a worker and its fixtures
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

DATASET ?= acdc
LOSS    ?= mbls

TARGETS := help install train slurm benchmark evaluate predict audit calibrate thresholds volumes guarantee refer regret shift apply decide ensemble report data check-data splits cache-info cache-clean \
  test test-all coverage lint format error-rates readme losses bench bench-losses bench-steps bench-metrics \
  bench-bootstrap bench-data bench-train bench-evaluation bench-audit bench-ddp bench-posthoc bench-shared docs hooks clean

# The variables of each target, next to those of EVERY target; others on the command line are refused.
EVERY := PYTHON ARGS SHELL MAKE% BIN MBLS PYTEST
vars.help := DATASET LOSS NETWORK PRESET DATA_ROOT DIM
vars.bench-shared := OLD
# <options>
vars.train := DATASET LOSS NETWORK PRESET LOGGER DIM DATA_ROOT CACHE SPLIT SEED PATIENT FOLD TRAIN_PATIENTS RATERS ADAPT EPOCHS BATCH_SIZE SELECT WINDOW DEVICES NODES ACCELERATOR PRECISION SYNC_BATCHNORM VERBOSE RUN RESUME DRY
vars.benchmark := DATASET NETWORK PRESET LOGGER DIM DATA_ROOT CACHE SPLIT PATIENT TRAIN_PATIENTS RATERS ADAPT EPOCHS BATCH_SIZE SELECT WINDOW DEVICES NODES ACCELERATOR PRECISION SYNC_BATCHNORM VERBOSE LOSSES SEEDS FOLDS ROOT JOBS
vars.slurm := DATASET LOSS NETWORK PRESET LOGGER DIM DATA_ROOT CACHE SPLIT SEED PATIENT FOLD TRAIN_PATIENTS RATERS ADAPT EPOCHS BATCH_SIZE SELECT WINDOW DEVICES NODES ACCELERATOR PRECISION SYNC_BATCHNORM VERBOSE LOSSES SEEDS FOLDS ROOT TIME SITE DRY
vars.data := DATASET PRESET DIM DATA_ROOT CACHE SPLIT PATIENT
vars.check-data := DATASET PRESET DIM DATA_ROOT CACHE SPLIT PATIENT
vars.splits := DATASET PRESET DIM DATA_ROOT CACHE SPLIT PATIENT FOLDS OUTPUT
vars.evaluate := DATA_ROOT CACHE SPLIT PATIENT FOLD WINDOW DEVICES NODES ACCELERATOR PRECISION VERBOSE RUN RUNS CALIBRATOR CORRUPT DECIDE CKPT TAG GRID MIRROR
vars.predict := DATA_ROOT CACHE WINDOW DEVICES NODES ACCELERATOR PRECISION RUN RUNS CALIBRATOR DECIDE GUARANTEE CKPT MIRROR INPUT OUTPUT PROBABILITIES UNCERTAINTY OVERWRITE
vars.calibrate := DATA_ROOT CACHE WINDOW ACCELERATOR PRECISION RUN PREDICTIONS GROUPS METHOD GRID MIRROR LABELS NAME DATASET SEED OUTPUT PATIENT FORMAT AXES CLASS_NAMES LABEL_VALUES REGIONS
vars.thresholds := DATA_ROOT CACHE WINDOW ACCELERATOR PRECISION RUN RUNS TARGET CALIBRATOR GROUPS OUTPUT GRID MIRROR
vars.volumes := DATA_ROOT CACHE WINDOW ACCELERATOR PRECISION RUN ALPHA CALIBRATOR GROUPS GRID MIRROR
vars.guarantee := DATA_ROOT CACHE WINDOW ACCELERATOR PRECISION RUN FNR ALPHA CALIBRATOR GROUPS GRID MIRROR
vars.refer := DATA_ROOT CACHE WINDOW ACCELERATOR PRECISION RUN CONFIDENCE SHARE CALIBRATOR GROUPS GRID MIRROR
vars.regret := DATA_ROOT CACHE WINDOW ACCELERATOR PRECISION RUN RUNS DRAWS OUTPUT MIRROR
vars.shift := DATA_ROOT CACHE WINDOW ACCELERATOR PRECISION RUN RUNS CORRUPTIONS CALIBRATOR TARGET ALPHA OUTPUT GRID MIRROR
vars.cache-info := CACHE
vars.cache-clean := CACHE YES ALL DAYS
vars.audit := VERBOSE MARGINS PREDICTIONS DECIDE LABELS NAME DATASET SEED OUTPUT PATIENT FORMAT AXES CLASS_NAMES LABEL_VALUES REGIONS
vars.report := OUTPUT RUNS REFERENCE NO_CAPTIONS NO_PICTURES
vars.apply := LABELS FORMAT AXES CLASS_NAMES LABEL_VALUES REGIONS CALIBRATOR PREDICTIONS OUTPUT
vars.decide := LABELS FORMAT AXES CLASS_NAMES LABEL_VALUES REGIONS DECIDE PREDICTIONS OUTPUT
vars.ensemble := LABELS NAME FORMAT AXES CLASS_NAMES LABEL_VALUES REGIONS PREDICTIONS OUTPUT
SWITCHES := SYNC_BATCHNORM VERBOSE MARGINS RESUME DRY PROBABILITIES UNCERTAINTY OVERWRITE NO_CAPTIONS NO_PICTURES YES ALL
#: LOSS           with settings of its own as mbls:margin=8,alpha=0.3 (train, slurm)
#: NETWORK        default: unet, in 3D unet3d, with --preset paper unet_paper (train, benchmark, slurm)
#: PRESET         default: quick on a phantom, paper with --data-root (train, benchmark, slurm, data, check-data, splits)
#: LOGGER         trackers next to metrics.csv, several with commas (train, benchmark, slurm)
#: DIM            2, 3: slices or volumes; default: what the network needs (train, benchmark, slurm, data, check-data, splits)
#: DATA_ROOT      the dataset's folder; without it a phantom is written to data/ (train, benchmark, slurm, data, check-data, splits, evaluate, predict, calibrate, thresholds, volumes, guarantee, refer, regret, shift)
#: CACHE          folder of the preprocessed data (default: cache) (train, benchmark, slurm, data, check-data, splits, evaluate, predict, calibrate, thresholds, volumes, guarantee, refer, regret, shift, cache-info, cache-clean)
#: SPLIT          JSON file: the patients of each part, or folds (train, benchmark, slurm, data, check-data, splits, evaluate)
#: SEED           default: 0 (train, slurm)
#: PATIENT        regular expression that finds the patient in a case's name, for data in a known format (train, benchmark, slurm, data, check-data, splits, evaluate)
#: FOLD           validate on fold K of the patients (train, slurm, evaluate)
#: TRAIN_PATIENTS use N of the training patients, for learning curves (train, benchmark, slurm)
#: RATERS         majority, sample, first, mean: label of training samples with several readers (docs/own-data.md) (train, benchmark, slurm)
#: ADAPT          val, holdout: what an adaptive loss observes: the validation split, or training patients held out for it (train, benchmark, slurm)
#: EPOCHS         how many to train; with RESUME=1 the new total (train, benchmark, slurm)
#: BATCH_SIZE     samples a step, over all ranks (train, benchmark, slurm)
#: SELECT         dice, nll, ece, compromise: which epoch is best (default: dice; docs/statistics.md) (train, benchmark, slurm)
#: WINDOW         patch, padded, whole: evaluate on windows of the training size, or whole slices (train, benchmark, slurm, evaluate, predict, calibrate, thresholds, volumes, guarantee, refer, regret, shift)
#: DEVICES        processes a node, or auto (train, benchmark, evaluate, predict)
#: DEVICES        processes a node (default: 1) (slurm)
#: NODES          machines (train, benchmark, slurm, evaluate, predict)
#: ACCELERATOR    cpu, gpu, auto (train, benchmark, slurm, evaluate, predict, calibrate, thresholds, volumes, guarantee, refer, regret, shift)
#: PRECISION      32-true, bf16-mixed, 16-mixed (train, benchmark, slurm, evaluate, predict, calibrate, thresholds, volumes, guarantee, refer, regret, shift)
#: SYNC_BATCHNORM batch norm over all GPUs (train, benchmark, slurm)
#: VERBOSE        print all numbers of the test (train, benchmark, slurm, evaluate)
#: VERBOSE        print all numbers (audit)
#: MARGINS        count voxels within margins in mm, for make guarantee (audit)
#: RUN            run folder: to write (train), or to read (train, predict)
#: RUN            run folder (evaluate)
#: RUNS           run folders, or checkpoints, whose networks form an ensemble (evaluate, predict)
#: CALIBRATOR     JSON file of a calibrator (make calibrate) (evaluate, predict)
#: CORRUPT        corruption and level of the images, noise:3 (docs/decisions.md) (evaluate)
#: DECIDE         how voxels get their classes: argmax (default), dice for the masks of the highest expected Dice, threshold for RUN's decisions/dice.json (make thresholds), or a file like it (evaluate, predict)
#: GUARANTEE      JSON file of a guarantee, whose outer and inner masks are written (make guarantee) (predict)
#: RUN            run folder: fit on validation patients, report on test patients (calibrate)
#: PREDICTIONS    or a folder of predictions, which are cross-fitted (calibrate)
#: GROUPS         groups of patients of a cross-fit (default: the folds of nnU-Net's validation, else 5) (calibrate)
#: METHOD         temperature (default), vector, isotonic, ..., or several with commas (docs/calibration.md) (calibrate)
#: RUN            run folder: choose on validation patients, report on test patients; an audit's folder is cross-fitted (thresholds)
#: RUNS           run folders that are drawn side by side (thresholds)
#: TARGET         dice (default), recall:0.95 or precision:0.9: what a threshold is chosen for (thresholds)
#: RUN            run folder: calibrate on validation patients, report on test patients; an audit's folder is cross-fitted (volumes, guarantee)
#: ALPHA          share of patients whose interval may miss (default: 0.1) (volumes)
#: FNR            share of a structure that may be missed (default: 0.1) (guarantee)
#: ALPHA          share of patients for whom it may be more; without it FNR bounds the mean (guarantee)
#: CALIBRATOR     JSON file of a calibrator (make calibrate) (thresholds, volumes, guarantee)
#: GROUPS         groups of patients of a cross-fit (default: 5) (thresholds, volumes, guarantee)
#: OUTPUT         of several RUNS: where the figure is written (default: thresholds/ above them) (thresholds)
#: RUN            run folder, or that of an audit (refer)
#: CONFIDENCE     soft_dice, expected_dice, entropy_near, entropy_all, agreement: what orders the cases (default: soft_dice; docs/decisions.md) (refer)
#: SHARE          share of other patients' cases below the level (default: 0.1) (refer)
#: CALIBRATOR     JSON file of a calibrator (make calibrate) (refer)
#: GROUPS         groups of patients of an audit's cross-fit (default: 5) (refer)
#: RUN            run folder (shift)
#: RUNS           run folders that are compared (shift)
#: CORRUPTIONS    such as "noise blur" (default: all; docs/decisions.md) (shift)
#: CALIBRATOR     also with this calibrator: a file, or the method of each run's own, temperature (shift)
#: TARGET         also Dice, recall or precision at thresholds for dice, recall:0.95 or precision:0.9 (shift)
#: ALPHA          also how many volumes are in intervals that may miss this share of the patients, 0.1 (shift)
#: OUTPUT         of several RUNS: where to write (default: shift/ above them) (shift)
#: RUN            run folder of a phantom (regret)
#: RUNS           run folders that are drawn side by side (regret)
#: DRAWS          labels drawn of each test case (default: 100) (regret)
#: OUTPUT         of several RUNS: where table and figure are written (default: regret/ above them) (regret)
#: RESUME         continue the run in RUN from its last checkpoint (train)
#: LOSSES         such as "ce mbls:margin=3 mbls:margin=10,alpha=0.3" (benchmark, slurm)
#: SEEDS          such as "0 1 2" (benchmark, slurm)
#: FOLDS          such as "0 1 2 3 4" (benchmark, slurm)
#: FOLDS          how many folds (default: 5) (splits)
#: ROOT           where runs are kept (default: runs; a benchmark without --losses runs/benchmark) (benchmark, slurm)
#: JOBS           runs at a time; cores are divided among them (default: 1; without --losses one a core) (benchmark)
#: TIME           limit: HH:MM:SS, D-HH, minutes (default: 24:00:00) (slurm)
#: SITE           YAML file with your own changes to site.yaml (slurm)
#: DRY            print the command, or the batch script, and stop (train, slurm)
#: CKPT           best, last, or a file (default: best) (evaluate, predict)
#: TAG            folder below test/ (default: the checkpoint's name and what differs from the run, best-native-mirrored-01) (evaluate)
#: GRID           preprocessed, native: where voxels are counted (default: native, on the grid of the files) (guarantee)
#: GRID           preprocessed, native: where to score: on the cache's grid, or on that of the files (evaluate, calibrate, thresholds, volumes, refer, shift)
#: MIRROR         average logits over mirrorings along these axes, e.g. 0,1 (evaluate, predict, calibrate, thresholds, volumes, guarantee, refer, regret, shift)
#: INPUT          a NIfTI file, or a folder of them (predict)
#: OUTPUT         folder for the label maps (predict)
#: PROBABILITIES  write class probabilities too (predict)
#: UNCERTAINTY    write maps of the uncertainty, and its numbers for each case (predict)
#: OVERWRITE      replace files in OUTPUT that are no predictions of mbls (predict)
#: OUTPUT         where to write (default: report/ in RUNS, or above several) (report)
#: OUTPUT         default: splits/<dataset>-<folds>.json (splits)
#: RUNS           run folders, or folders above them (make: default runs) (report)
#: REFERENCE      loss that the others are compared with (report)
#: NO_CAPTIONS    figures without the lines above them, for a paper (report)
#: NO_PICTURES    no slices of patients: without the worst cases (report)
#: PREDICTIONS    probability maps: a results folder of nnU-Net v2, or a folder of .npz or NIfTI files (audit)
#: DECIDE         score the masks of dice or of a file of thresholds, in place of the likeliest classes, as a test of its own (audit)
#: LABELS         folder of the label files (default: those of nnU-Net's results, if they are found); of apply, decide and ensemble, files on the grid of each case (audit, calibrate, apply, decide, ensemble)
#: NAME           what tables call the predictions (default: the folder's name) (audit, calibrate, ensemble)
#: DATASET        the dataset's name in tables (default: its folder's name) (audit, calibrate)
#: SEED           number of the training, if several have one NAME (default: 0) (audit, calibrate)
#: OUTPUT         run folder to write (default: runs/audit/NAME) (audit, calibrate)
#: PATIENT        regular expression that finds the patient in a case's name (default: each case is a patient) (audit, calibrate)
#: FORMAT         nnunet, npz, nifti, nifti-per-class: what the files are, if not found by itself (audit, calibrate, apply, decide, ensemble)
#: AXES           cxyz, czyx, xyzc, zyxc: order of an array's axes, c for the classes, if their shapes leave it open (audit, calibrate, apply, decide, ensemble)
#: CLASS_NAMES    names of the classes, background first (default: those of a dataset.json) (audit, calibrate, apply, decide, ensemble)
#: LABEL_VALUES   value of each class in the label files, such as 0,1,2,4 (default: those of a dataset.json, or 0, 1, ...) (audit, calibrate, apply, decide, ensemble)
#: REGIONS        overlapping regions in place of classes, "WT=1,2,3 TC=1,3 ET=3": name and label values of each channel (audit, calibrate, apply, decide, ensemble)
#: CALIBRATOR     JSON file of a calibrator (make calibrate) (apply)
#: PREDICTIONS    probability maps, as of audit (apply)
#: OUTPUT         folder to write, in the format of PREDICTIONS (apply)
#: DECIDE         dice for the masks of the highest expected Dice, argmax, or a JSON file of thresholds (make thresholds) or a guarantee (make guarantee) (decide)
#: PREDICTIONS    probability maps, as of audit (decide)
#: OUTPUT         folder to write label maps or masks to (decide)
#: PREDICTIONS    folders of probability maps, as of audit (ensemble)
#: OUTPUT         folder to write, in the format of the first (ensemble)
#: YES            do not ask (cache-clean)
#: ALL            remove every cache (cache-clean)
#: DAYS           also remove caches last written to N days ago (cache-clean)
# </options>

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

# A variable that is set becomes the option of its name: DATA_ROOT=x is --data-root "x"; of a switch, 1 or 0.
on = $(filter 1 yes true,$($(1)))
flag = --$(shell echo $(1) | tr A-Z_ a-z-)
option = $(if $(filter $(1),$(SWITCHES)),$(if $(call on,$(1)),$(call flag,$(1))),$(if $($(1)),$(call flag,$(1)) "$($(1))"))
OPTIONS = $(strip $(foreach name,$(filter-out $(LEFT_OUT),$(vars.$@)),$(call option,$(name))))
# the defaults of a new run, which a resumed one does not take
train: LEFT_OUT = $(if $(call on,RESUME),$(filter-out $(GIVEN),DATASET LOSS))
evaluate: LEFT_OUT := RUN
report: LEFT_OUT := RUNS
thresholds volumes guarantee refer regret shift: LEFT_OUT := RUN
audit calibrate ensemble: LEFT_OUT = PREDICTIONS $(filter-out $(GIVEN),DATASET NAME)
apply: LEFT_OUT := CALIBRATOR PREDICTIONS OUTPUT
decide: LEFT_OUT := DECIDE PREDICTIONS OUTPUT
needs = $(if $($(1)),,$(error $@ needs $(1)=...; see make help))

PRESET_NOW = $(or $(PRESET),$(if $(DATA_ROOT),paper,quick))
NETWORK_NOW = $(or $(NETWORK),$(if $(filter 3,$(DIM)),unet3d,$(if $(filter paper,$(PRESET_NOW)),unet_paper,unet)))

.DEFAULT_GOAL := help
.PHONY: $(TARGETS)

help:  ## Show the targets, the variables and what they can be
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-24s %s\n", $$1, $$2}'
	@echo
	@echo "Variables:"
	@for kind in data:DATASET loss:LOSS network:NETWORK trainer:PRESET logger:LOGGER; do \
	  printf '  %-15s%s\n' "$${kind#*:}" "$$(ls experiments/configs/$${kind%%:*} | sed -n 's/^\([^.]*\)\.yaml$$/\1/p' | tr '\n' ' ')"; done
	@sed -n 's/^#:/ /p' Makefile
	@echo '  ARGS           any further option, e.g. ARGS="--trainer.gradient_clip_val 1"'
	@echo '  OLD            another checkout (bench-shared)'
	@echo "Now: DATASET=$(DATASET) LOSS=$(LOSS) NETWORK=$(NETWORK_NOW) PRESET=$(PRESET_NOW)"

install: .venv/installed  ## Make .venv with the pinned versions

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mbls needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

train: install  ## Train on DATASET with LOSS, then test the best checkpoint
	@$(MBLS) train $(OPTIONS) $(ARGS)

benchmark: install  ## Train LOSSES with SEEDS (and FOLDS), JOBS at a time, and report; alone: a small default
	@$(MBLS) benchmark $(OPTIONS) $(ARGS)

slurm: install  ## Train in a batch job: NODES DEVICES TIME, an array with LOSSES SEEDS FOLDS
	@$(BIN)/python -m experiments.slurm $(OPTIONS) $(ARGS)

evaluate: install  ## Test a checkpoint of RUN again, or the ensemble of RUNS="A B"
	$(if $(RUN),,$(call needs,RUNS))
	@$(MBLS) evaluate $(if $(RUN),"$(RUN)") $(OPTIONS) $(ARGS)

calibrate: install  ## Fit METHOD on RUN's validation patients, or cross-fit it on PREDICTIONS; before and after
	$(if $(RUN),,$(call needs,PREDICTIONS))
	@$(MBLS) calibrate $(if $(PREDICTIONS),"$(PREDICTIONS)") $(OPTIONS) $(ARGS)

thresholds: install  ## Choose thresholds for TARGET on RUN's validation patients, report on its test patients
	$(if $(RUN),,$(call needs,RUNS))
	@$(MBLS) thresholds $(if $(RUN),"$(RUN)") $(OPTIONS) $(ARGS)

refer: install  ## Order RUN's test cases by their confidence, refer the least confident
	$(call needs,RUN)
	@$(MBLS) refer "$(RUN)" $(OPTIONS) $(ARGS)

shift: install  ## Test RUN, or RUNS="A B", on images with CORRUPTIONS="noise blur", as curves
	$(if $(RUN),,$(call needs,RUNS))
	@$(MBLS) shift $(if $(RUN),"$(RUN)") $(OPTIONS) $(ARGS)

regret: install  ## What RUN, on a phantom, loses to the best answer: by network, calibration and decision
	$(if $(RUN),,$(call needs,RUNS))
	@$(MBLS) regret $(if $(RUN),"$(RUN)") $(OPTIONS) $(ARGS)
volumes: install  ## Volumes in ml of RUN's test patients, with intervals calibrated on validation patients
	$(call needs,RUN)
	@$(MBLS) volumes "$(RUN)" $(OPTIONS) $(ARGS)

guarantee: install  ## Outer and inner masks of each structure, promised for new patients (FNR, ALPHA)
	$(call needs,RUN)
	@$(MBLS) guarantee "$(RUN)" $(OPTIONS) $(ARGS)

apply: install  ## Write PREDICTIONS calibrated by CALIBRATOR to OUTPUT, in their format
	$(call needs,CALIBRATOR)$(call needs,PREDICTIONS)$(call needs,OUTPUT)
	@$(MBLS) apply "$(CALIBRATOR)" "$(PREDICTIONS)" "$(OUTPUT)" $(OPTIONS) $(ARGS)

decide: install  ## Write label maps of PREDICTIONS to OUTPUT: DECIDE=dice or a file of thresholds
	$(call needs,DECIDE)$(call needs,PREDICTIONS)$(call needs,OUTPUT)
	@$(MBLS) decide "$(DECIDE)" "$(PREDICTIONS)" "$(OUTPUT)" $(OPTIONS) $(ARGS)

ensemble: install  ## Average the folders of PREDICTIONS="A B" to OUTPUT, with maps of the uncertainty
	$(call needs,PREDICTIONS)$(call needs,OUTPUT)
	@$(MBLS) ensemble $(PREDICTIONS) $(OPTIONS) $(ARGS)

report: install  ## Compare the runs in or below RUNS: tables, figures, one HTML file
	@$(MBLS) report $(or $(RUNS),runs) $(OPTIONS) $(ARGS)

predict: install  ## Segment INPUT (a NIfTI file or a folder) with RUN, or the ensemble of RUNS, into OUTPUT
	$(if $(RUN),,$(call needs,RUNS))$(call needs,INPUT)$(call needs,OUTPUT)
	@$(MBLS) predict $(OPTIONS) $(ARGS)

audit: install  ## Score PREDICTIONS, probability maps of any program, against LABELS
	$(call needs,PREDICTIONS)
	@$(MBLS) audit "$(PREDICTIONS)" $(OPTIONS) $(ARGS)

data: install  ## Write the phantom where there is no DATA_ROOT, and build the cache
	@$(MBLS) data $(OPTIONS) $(ARGS)

check-data: install  ## Check every case of DATASET and list all problems
	@$(MBLS) check-data $(OPTIONS) $(ARGS)

splits: install  ## Write FOLDS folds of DATASET's patients as JSON
	@$(MBLS) splits $(OPTIONS) $(ARGS)

cache-info: install  ## List the caches: dataset, settings, size, age
	@$(MBLS) cache-info $(OPTIONS) $(ARGS)

cache-clean: install  ## Remove caches that nothing uses any more (YES=1: do not ask; ALL=1; DAYS=n)
	@$(MBLS) cache-clean $(OPTIONS) $(ARGS)

test: install  ## Run the tests (a few minutes)
	@$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-all: install  ## Run all tests, the slow ones too
	@$(PYTEST) $(ARGS)

error-rates: install  ## How often the report's tests and intervals are wrong (minutes); ARGS=--write: docs/statistics.md
	@$(BIN)/python -m experiments.benchmarks.statistics $(ARGS)

readme: install  ## Update the tables of README and Makefile: losses, options, the results of make benchmark
	@$(BIN)/python -m experiments.readme $(ARGS)

losses: install  ## Print the losses: class, formula, defaults, paper
	@$(MBLS) losses $(ARGS)

bench: bench-losses bench-steps bench-metrics bench-bootstrap bench-data bench-train bench-evaluation bench-audit bench-ddp bench-posthoc  ## Measure speed and memory next to the peers (minutes)

bench-losses: install  ## Losses against cross-entropy
	@$(BIN)/python -m experiments.benchmarks.losses $(ARGS)

bench-steps: install  ## Whole steps with the losses that adapt, next to MbLS
	@$(BIN)/python -m experiments.benchmarks.steps $(ARGS)

bench-metrics: install  ## Metrics against torchmetrics and MONAI
	@$(BIN)/python -m experiments.benchmarks.metrics $(ARGS)

bench-bootstrap: install  ## Intervals of a test of 200 patients
	@$(BIN)/python -m experiments.benchmarks.bootstrap $(ARGS)

bench-data: install  ## Slices and patches a second next to NIfTI, HDF5 and MONAI's caches
	@OMP_NUM_THREADS=1 $(BIN)/python -m experiments.benchmarks.data $(ARGS)

bench-train: install  ## What a training epoch costs beyond its bare steps
	@$(BIN)/python -m experiments.benchmarks.train $(ARGS)

bench-evaluation: install  ## Scoring a volume next to the published way
	@$(BIN)/python -m experiments.benchmarks.evaluation $(ARGS)

bench-audit: install  ## Reading and scoring predictions of a large case: seconds, memory
	@$(BIN)/python -m experiments.benchmarks.audit $(ARGS)

bench-ddp: install  ## Training on two processes next to one
	@$(BIN)/python -m experiments.benchmarks.ddp $(ARGS)

bench-posthoc: install  ## Fitting a temperature in a stream, next to L-BFGS on all voxels
	@$(BIN)/python -m experiments.benchmarks.posthoc $(ARGS)

bench-shared: install  ## Counting and training next to busy processes; OLD=another checkout (12 minutes)
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
