# Every target sets itself up: the first call creates .venv and installs, the next installs nothing.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
CONFIG ?= configs/full.yaml
TEST_PROCESSES ?= 2
GIVEN_DATA = $(if $(value DATA),--data "$$MEME_DATA")
GIVEN_RUN = $(if $(FROM),--from $(FROM)) $(if $(filter 1 true yes,$(OVERWRITE)),-p overwrite true)
UNIT_TESTS = $(RUN) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Builds of PyTorch without CUDA, a tenth of the size, come from PyTorch's own index.
CPU_INDEX := https://download.pytorch.org/whl/cpu

# Waiting threads that spin cost more than they gain on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false
# Through the environment, and as it was typed: make would expand each $ on the way.
unexport TEXT IMAGE DATA
export MEME_TEXT := $(value TEXT)
export MEME_DATA := $(value DATA)
export MEME_IMAGE := $(value IMAGE)

.DEFAULT_GOAL := help
.PHONY: engines export help setup pilot full test coverage test-slow lab demo serve page ocr verify-shards emotions model-validation bench notebooks lint

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*##/ { printf "%-18s %s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## create .venv and install, as every other target does (CPU=1: without CUDA)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); choose one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(if $(CPU),$(INSTALL) --no-deps --index-url $(CPU_INDEX) torch torchvision)
	$(INSTALL) --editable '.[test]'
	@touch $@

ocr: $(READY)  ## read the text off your pictures: make ocr DATA=DIR (WORKERS=4; ALL=1: given ones too)
	@$(RUN) -m lib.data.ocr_folder $(GIVEN_DATA) $(if $(WORKERS),--workers $(WORKERS)) $(if $(ALL),--all)

pilot: $(READY)  ## run Steps 3 to 8 on 50 memes (DATA=DIR: on your own)
	$(RUN) -m lib.run --config configs/pilot.yaml $(GIVEN_DATA) $(GIVEN_RUN)

full: $(READY)  ## run Steps 3 to 8 in full mode (CONFIG=configs/confounders.yaml: offline, on a CPU)
	$(RUN) -m lib.run --config $(if $(word 2,$(CONFIG)),"$(CONFIG)",$(CONFIG)) $(GIVEN_DATA) $(GIVEN_RUN)

test: lint  ## what lint checks; unit, end-to-end and notebook tests
	$(UNIT_TESTS)
	root=$$(mktemp -d) && trap 'rm -rf "$$root"' EXIT && \
	  MEMES_ROOT="$$root" $(RUN) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout 600 \
	  -p no:cacheprovider $(sort $(wildcard Step_*/*.ipynb))

coverage: $(READY)  ## the unit and end-to-end tests, and the lines that none of them reaches
	$(UNIT_TESTS) --cov=lib --cov-report=term-missing:skip-covered

test-slow: $(READY)  ## load, killed runs, many rows, Ray: what takes too long for every commit
	$(INSTALL) --editable '.[test,ray]'
	$(RUN) -m pytest -m slow

lab: $(READY)  ## open the notebooks in Jupyter
	$(RUN) -m jupyter lab

demo: $(READY)  ## judge one meme: make demo TEXT='...' IMAGE=meme.png (without TEXT it is read; MODE=full)
	@$(RUN) -m lib.serving --mode $(or $(MODE),pilot) $(if $(value TEXT),--text "$$MEME_TEXT") $(if $(value IMAGE),--image "$$MEME_IMAGE")

serve: $(READY)  ## answer over HTTP: make serve PORT=8000 MODE=pilot (PAGE=1: the page as well)
	@$(RUN) -m lib.serving.service --port $(or $(PORT),8000) --mode $(or $(MODE),pilot) $(if $(PAGE),--page)

page: $(READY)  ## the page to try memes on: make page PORT=7860 MODE=pilot
	@$(RUN) -m lib.serving.service --page --port $(or $(PORT),7860) --mode $(or $(MODE),pilot)

engines: $(READY)  ## measure what runs the models fastest here, and keep it (MODE=full)
	$(RUN) -m lib.serving.engines --mode $(or $(MODE),pilot)

export: $(READY)  ## write the models as ONNX files for other languages (MODE=full)
	$(RUN) -m lib.serving.engines.export --mode $(or $(MODE),pilot)

verify-shards: $(READY)  ## read all packed shards and compare them with what was written
	@$(RUN) Step_3/pack_examples.py --verify

emotions: $(READY)  ## train, calibrate, test and update the emotion classifier (DATA=DIR: GoEmotions)
	$(RUN) scripts/train_emotion_model.py $(GIVEN_DATA)
	$(RUN) scripts/calibrate_model.py $(GIVEN_DATA)
	$(RUN) scripts/test_calibration.py $(GIVEN_DATA)
	$(RUN) scripts/update_model_threshold.py --per-label

model-validation: $(READY)  ## the gate on the emotion classifier's F1
	@test -f "$${MEMES_ROOT:-.}/models/emotion_classifier/model.safetensors" || $(MAKE) emotions
	$(RUN) scripts/test_calibration.py $(GIVEN_DATA)

bench: $(READY)  ## measure against named peers; writes benchmarks/results/
	$(INSTALL) --editable '.[bench]'
	$(RUN) benchmarks/calibration.py
	$(RUN) benchmarks/packing.py
	$(RUN) benchmarks/encoding.py
	$(RUN) benchmarks/serving.py

notebooks: $(READY)  ## run the notebooks anew and keep their pilot outputs in the repository
	root=$$(mktemp -d) && trap 'rm -rf "$$root"' EXIT && \
	  MEMES_ROOT="$$root" $(RUN) -m lib.notebooks

lint: $(READY)  ## check style, types, and that imports point down
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-logo
